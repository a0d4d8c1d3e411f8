"""The stores that tests write to: emulators of Google's and Amazon's, each behind a proxy that can misbehave.

The emulators are real servers on the loopback (``gcp-storage-emulator`` and moto's), and the client libraries talk to them
as they talk to the clouds. The proxy passes everything on unless it is told of a fault. It makes good what the emulator of
Google's store gets wrong: an upload under the condition ``ifGenerationMatch=0``, which a lock needs, is refused where the
object exists; and an upload in two parts is passed on in one, because the emulator reads parts as mail, and takes a carriage
return at the end of the content for the end of a line.
"""

import http.client
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs, quote, unquote, urlsplit

from tests.processes import Process

SCHEMES = ("gs", "s3")

Fault = Callable[[str, str], int | None]
"""From method and path of a request to the status to answer it with; None passes it on. May sleep.

The path of an upload to Google's store, which does not name the object, is followed by a space and that name.
"""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    emulator: ClassVar[int]
    store: ClassVar["Store"]

    def handle(self) -> None:
        with suppress(ConnectionError):  # the client was killed
            super().handle()

    def _handle(self) -> None:
        body = self._body()
        named = _NAME.search(body) if self.command == "POST" else None
        status = self.store.fault(self.command, f"{self.path} {json.loads(named[1])}" if named else self.path)
        if status is not None:
            return self._answer(status, {"Content-Type": "application/xml"}, self.store.error(status))
        query = parse_qs(urlsplit(self.path).query)
        with self.store.conditions:
            if query.get("ifGenerationMatch") == ["0"] and named and self._exists(json.loads(named[1])):
                return self._answer(412, {"Content-Type": "application/json"}, b'{"error": {"code": 412, "message": ""}}')
            if (parts := _PARTS.fullmatch(body)) and named and parts["content"]:
                path = f"{urlsplit(self.path).path}?uploadType=media&name={quote(json.loads(named[1]), safe='')}"
                answer, content = self._ask("POST", path, parts["content"], {"Content-Type": "application/octet-stream"})
            else:
                answer, content = self._ask(self.command, self.path, body)
        headers = {name: value for name, value in answer.getheaders() if name.lower() not in _OWN}
        if self.command == "HEAD":
            headers["Content-Length"] = answer.getheader("Content-Length", "0")
        return self._answer(answer.status, headers, content)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = _handle

    def _body(self) -> bytes:
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.send_response_only(100)
            self.end_headers()
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            chunks = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _ask(
        self, method: str, path: str, body: bytes, other: Mapping[str, str] | None = None
    ) -> tuple[http.client.HTTPResponse, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.emulator, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _OWN}
        connection.request(method, path, body, {**headers, **(other or {}), "Content-Length": str(len(body))})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer, content

    def _exists(self, name: str) -> bool:
        bucket = self.path.partition("/b/")[2].partition("/")[0]
        found, _ = self._ask("GET", f"/storage/v1/b/{bucket}/o/{name.replace('/', '%2F')}", b"")
        return found.status == 200

    def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response_only(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


_NAME = re.compile(rb'"name": *("[^"]*")')
"""Of the object, in the first part of an upload in two parts."""

_PARTS = re.compile(
    rb"(?P<line>--[^\n]+)\nContent-Type: application/json[^\n]*\n\n[^\n]*\n"
    rb"(?P=line)\n[^\n]*\n\n(?P<content>.*)\n(?P=line)--",
    re.DOTALL,
)
"""An upload in two parts, as gcsfs writes it."""

_OWN = {"transfer-encoding", "content-length", "connection", "expect"}
"""Headers of one connection, which a proxy does not pass on."""


class Store:
    """One emulator with its proxy.

    Attributes:
        scheme: ``gs`` or ``s3``.
        port: the proxy's.
        fault: what goes wrong with requests.
    """

    def __init__(self, scheme: str, port: int, log: Path) -> None:
        self.scheme, self.port = scheme, port
        self.conditions = threading.RLock() if scheme == "gs" else threading.BoundedSemaphore(64)
        self.fault: Fault = lambda method, path: None
        emulator = free_port()
        programs = {
            "gs": ["gcp-storage-emulator", "start", "--host", "127.0.0.1", "--port", str(emulator), "--in-memory"],
            "s3": ["moto_server", "-H", "127.0.0.1", "-p", str(emulator)],
        }
        program, *arguments = programs[scheme]
        with log.open("w") as output:
            self._process = subprocess.Popen(
                [str(Path(sys.executable).with_name(program)), *arguments], stdout=output, stderr=subprocess.STDOUT
            )
        handler = type("Handler", (_Handler,), {"emulator": emulator, "store": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        deadline = time.monotonic() + 60
        while True:
            try:
                return socket.create_connection(("127.0.0.1", emulator), 1).close()
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the emulator did not start: {log.read_text()}") from None
                time.sleep(0.05)

    def error(self, status: int) -> bytes:
        """The body of an answer with an error, as the real store words it."""
        code, said = {
            400: ("AuthorizationHeaderMalformed", "the region 'us-east-1' is wrong; expecting 'eu-west-1'"),
            403: ("AccessDenied", "Access Denied"),
            503: ("SlowDown", "Please reduce your request rate."),
        }[status]
        if self.scheme == "gs":
            return f'{{"error": {{"code": {status}, "message": "{said}"}}}}'.encode()
        return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{said}</Message></Error>".encode()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._process.kill()
        self._process.wait()


def kill_at_request(store: Store, process: Process, part: str, number: int) -> bool:
    """SIGKILL a process as it makes its ``number``-th request, from 0, that changes an object with ``part`` in its name.

    Returns:
        Whether it was killed; otherwise it ended by itself before.
    """
    requests = itertools.count()

    def kill(method: str, path: str) -> None:
        if method not in ("GET", "HEAD") and part in unquote(path) and next(requests) == number:
            process.kill()

    store.fault = kill
    _, errors = process.communicate()
    store.fault = lambda method, path: None
    assert process.returncode in (0, -signal.SIGKILL), errors
    return process.returncode == -signal.SIGKILL


def point_at(ports: dict[str, int]) -> None:
    """Have the client libraries of this process and of those it starts talk to emulators, and to nothing else."""
    os.environ |= {
        "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{ports['gs']}",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # gRPC, which the emulator does not speak; read when gcsfs is imported
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports['s3']}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "NO_PROXY": "127.0.0.1",
    }
