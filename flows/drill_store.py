"""An object store on loopback that misbehaves, for flows/drill_faults.py: a folder as the bucket `drill`, as readers of S3 see it.

Every third answer is 503 SlowDown and every third body ends in the middle, until there have been as many as were asked for. It
answers HEAD and GET (with Range and If-Match) and nothing else, and believes every signature.
"""

import hashlib
import re
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

BUCKET = "drill"
RANGE = re.compile(r"bytes=(\d+)-(\d*)$")
BUSY = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


class Store(ThreadingHTTPServer):
    """Serves `folder`; counts what it did to whom."""

    daemon_threads = True

    def __init__(self, folder: Path, refusals: int, cuts: int) -> None:
        """refusals: answers of 503 before it behaves; cuts: bodies that end in the middle."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.refusals, self.cuts = folder, refusals, cuts
        self.refused = self.cut = self.asked = 0
        self.lock = threading.Lock()

    def fault(self, body: bool) -> str:
        """What happens to the next answer: "503", "cut" or nothing."""
        with self.lock:
            self.asked += 1
            if self.asked % 3 == 1 and self.refused < self.refusals:
                self.refused += 1
                return "503"
            if body and self.asked % 3 == 2 and self.cut < self.cuts:
                self.cut += 1
                return "cut"
            return ""

    @property
    def variables(self) -> dict[str, str]:
        """The environment of whoever is to read from it."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.server_address[1]}",
            "AWS_ACCESS_KEY_ID": "drill",
            "AWS_SECRET_ACCESS_KEY": "drill",
            "AWS_DEFAULT_REGION": "us-east-1",
            "NO_PROXY": "127.0.0.1",
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Store

    def do_GET(self) -> None:
        """An object, whole or a range of it."""
        head = self.command == "HEAD"
        fault = self.server.fault(body=not head)
        bucket, _, key = urllib.parse.unquote(self.path.partition("?")[0]).lstrip("/").partition("/")
        path = (self.server.folder / key).resolve()
        if fault == "503":
            self._send(503, b"" if head else BUSY, len(BUSY))
        elif bucket != BUCKET or not path.is_relative_to(self.server.folder.resolve()) or not path.is_file():
            self._send(404, b"", 0)
        else:
            self._object(path.read_bytes(), head, fault)

    do_HEAD = do_GET

    def _object(self, data: bytes, head: bool, fault: str) -> None:
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "Accept-Ranges": "bytes"}
        status, whole = 200, len(data)
        if asked := RANGE.match(self.headers.get("Range", "")):
            first, last = int(asked[1]), min(int(asked[2] or whole - 1), whole - 1)
            if first >= whole:
                self._send(416, b"", 0)
                return
            status, data = 206, data[first : last + 1]
            headers["Content-Range"] = f"bytes {first}-{last}/{whole}"
        length = len(data)
        if fault == "cut":
            data, self.close_connection = data[: length // 2], True
        self._send(status, b"" if head else data, length, headers)

    def _send(self, status: int, body: bytes, length: int, headers: dict[str, str] | None = None) -> None:
        self.send_response_only(status)
        for name, value in {**(headers or {}), "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@contextmanager
def serving(folder: Path, refusals: int, cuts: int) -> Iterator[Store]:
    """A store for the length of a `with`."""
    store = Store(folder, refusals, cuts)
    threading.Thread(target=store.serve_forever, daemon=True).start()
    try:
        yield store
    finally:
        store.shutdown()
        store.server_close()
