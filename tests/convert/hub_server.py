"""A Hugging Face Hub on the loopback interface: the routes of downloads and uploads, and the refusals of the real one."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef" * 2 + "01234567"


@dataclass
class Hub:
    """The server's repositories, each a directory, and what was asked of it.

    Attributes:
        repositories: directory of each ``OWNER/NAME``.
        gated: repositories whose files want permission.
        endpoint: its address.
        fetched: files whose content was sent.
        token: what an upload has to bring.
        created: what each repository was asked to be.
        root: where new repositories are put.
    """

    repositories: dict[str, Path]
    gated: set[str] = field(default_factory=set)
    endpoint: str = ""
    fetched: list[str] = field(default_factory=list)
    token: str = "hf_writes"
    created: list[dict] = field(default_factory=list)
    root: Path = Path()


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            words = self.path.partition("?")[0].strip("/").split("/")
            if len(words) < 4:  # what the library would like to know about other things
                self.refuse(404, "NotFound")
                return
            if words[:2] == ["api", "models"]:
                route, revision = words[4:6] or ("revision", "main")
                repository = "/".join(words[2:4])
            else:
                repository, route, revision = "/".join(words[:2]), words[2], words[3]
            folder = hub.repositories.get(repository)
            if folder is None:
                self.refuse(404, "RepoNotFound")
            elif revision not in ("main", COMMIT):
                self.refuse(404, "RevisionNotFound")
            elif route == "revision":
                self.answer(json.dumps({"id": repository, "sha": COMMIT, "siblings": []}).encode())
            elif route == "tree":
                self.answer(json.dumps([entry(file) for file in sorted(folder.iterdir())]).encode())
            elif repository in hub.gated:
                self.refuse(403, "GatedRepo")
            else:
                content = (folder / words[4]).read_bytes()
                if self.command == "GET":
                    hub.fetched.append(words[4])
                self.answer(content, {"ETag": f'"{oid(content)}"', "X-Repo-Commit": COMMIT})

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            words = self.path.partition("?")[0].strip("/").split("/")
            if self.headers.get("Authorization") != f"Bearer {hub.token}":
                self.refuse(401, "Unauthorized")
            elif words[1:] == ["repos", "create"]:
                asked = json.loads(body)
                repository = f"{asked['organization']}/{asked['name']}"
                exists = repository in hub.repositories
                if not exists:
                    hub.created.append(asked)
                    hub.repositories[repository] = hub.root / asked["name"]
                    hub.repositories[repository].mkdir()
                answer = {"url": f"{hub.endpoint}/{repository}", "id": repository}
                self.answer(json.dumps(answer).encode(), status=409 if exists else 200)
            elif words[4] == "preupload":
                files = [{**file, "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]]
                self.answer(json.dumps({"files": files}).encode())
            else:
                assert words[4:] == ["commit", "main"]
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        content = base64.b64decode(line["value"]["content"])
                        (hub.repositories["/".join(words[2:4])] / line["value"]["path"]).write_bytes(content)
                url = f"{hub.endpoint}/{'/'.join(words[2:4])}/commit/{COMMIT}"
                self.answer(json.dumps({"commitUrl": url, "commitOid": COMMIT}).encode())

        def refuse(self, status, code):
            self.answer(b"{}", {"X-Error-Code": code, "X-Error-Message": f"refused: {code}"}, status)

        def answer(self, content, headers=None, status=200):
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.endpoint = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


def oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def entry(file: Path) -> dict:
    content = file.read_bytes()
    return {"type": "file", "path": file.name, "size": len(content), "oid": oid(content)}
