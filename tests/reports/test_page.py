import pytest

from dnabert2_jax.errors import UserError
from dnabert2_jax.reports import page
from tests.reports.helpers import Page


def test_what_users_write_is_escaped():
    evil = '<script>alert("x")</script> & co'
    blocks = [page.Table((evil,), [(evil,)]), page.Settings([(evil, evil)])]
    parsed = Page(page.Page(evil, evil, [page.Section("one", evil, blocks)], [(evil, evil)], [evil]).html())
    assert "script" not in {tag for tag, _ in parsed.tags}
    assert parsed.text.count(evil) == 12


def test_every_kind_of_block_is_rendered():
    blocks = [
        page.Text("a text"),
        page.Heading("a heading"),
        page.Table.from_records([{"name": "one", "number": "1"}, {"name": "two", "number": "2"}]),
        page.SettingsGroups([("group", page.Settings([("key", "value")]))]),
        page.Command("to do this:", "dnabert2 doctor"),
        page.Pictures([page.Picture(b"light", b"dark", "a picture")]),
    ]
    document = page.Page("title", "subtitle", [page.Section("one", "first", blocks)]).html()
    parsed = Page(document)
    for text in ("a text", "a heading", "two", "group", "key", "value", "dnabert2 doctor", "a picture"):
        assert text in parsed.text.split("\n")
    assert '<td>two</td><td class="number">2</td>' in document
    assert parsed.references[1:] == ["data:image/png;base64,ZGFyaw==", "data:image/png;base64,bGlnaHQ="]
    assert "figures" not in {attributes.get("class") for _, attributes in parsed.tags}


def test_a_row_of_another_width_is_refused():
    with pytest.raises(ValueError, match="1 cells below a header of 2"):
        page.Table(("a", "b"), [("1", "2"), ("3",)])


def test_a_page_that_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match=r"page\.html could not be written \(No such file"):
        page.write_page(tmp_path / "absent" / "page.html", page.Page("title", "subtitle", []))
