"""A parser for pages."""

from html.parser import HTMLParser

VOID = {"meta", "img", "source", "br"}


class Page(HTMLParser):
    """Tags, texts and references of a page; every tag must be closed in order."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(document)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data + "\n"

    @property
    def references(self) -> list[str]:
        return [
            value for _, attrs in self.tags for key, value in attrs.items() if key in ("src", "href", "srcset") and value
        ]

    @property
    def anchors(self) -> set[str | None]:
        return {attrs["id"] for _, attrs in self.tags if "id" in attrs}
