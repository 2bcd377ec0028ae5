"""An S3 server on loopback: moto's, behind a small proxy of ours that spoils requests and answers when it is told to.

moto does not compare the checksums of what it is sent; the proxy does, and answers as S3 does.
"""

import base64
import contextlib
import hashlib
import http.client
import itertools
import logging
import os
import random
import re
import threading
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import pytest

from stages.lib.core import s3 as client_module

ERRORS = {
    "500": (500, "InternalError", "We encountered an internal error. Please try again."),
    "503": (503, "SlowDown", "Please reduce your request rate."),
    "expired": (403, "ExpiredToken", "The provided token has expired."),
    "missing": (404, "NoSuchKey", "The specified key does not exist."),
    "checksum": (400, "XAmzContentChecksumMismatch", "The value specified in the header did not match."),
}
FAULTS = ("500", "503", "cut", "stall", "flip", "expired", "missing")
PASSING = ("500", "503", "cut", "stall", "flip")  # the same request may do better the next time
QUICK = client_module.Patience(
    connect_seconds=10.0, read_seconds=10.0, attempts=6, pause_seconds=0.002, longest_pause_seconds=0.01
)
STALL_SECONDS = 0.3  # what a reader waits for where a test lets the server stall
_numbers = itertools.count()
_dice = random.Random(0)


class Seen(NamedTuple):
    """One request that came to the proxy."""

    method: str
    bucket: str
    key: str
    range: str
    fault: str
    """What was done to it, empty: nothing."""


@dataclass
class Fault:
    """Spoils requests of one method and bucket whose key matches."""

    kind: str
    method: str
    bucket: str
    key: re.Pattern[str]
    times: float
    share: float
    dice: random.Random = field(default_factory=lambda: random.Random(0))

    def strikes(self, method: str, bucket: str, key: str) -> bool:
        meant = (method, bucket) == (self.method, self.bucket) and self.key.search(key)
        if self.times <= 0 or not meant or self.dice.random() >= self.share:
            return False
        self.times -= 1
        return True


class Proxy(ThreadingHTTPServer):
    """Passes requests on, remembers them, and injects faults."""

    daemon_threads = True

    def __init__(self, behind: tuple[str, int]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = behind
        self.faults: list[Fault] = []
        self.seen: list[Seen] = []
        self.lock = threading.Lock()
        self.healed = threading.Event()

    def look(self, method: str, bucket: str, key: str, asked: str) -> str:
        """Remember a request; the fault it meets."""
        with self.lock:
            kind = next((fault.kind for fault in self.faults if fault.strikes(method, bucket, key)), "")
            self.seen.append(Seen(method, bucket, key, asked, kind))
            return kind


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def do_GET(self) -> None:
        bucket, _, key = urllib.parse.unquote(self.path.partition("?")[0]).lstrip("/").partition("/")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.look(self.command, bucket, key, self.headers.get("Range", ""))
        if fault == "flip" and body:
            body, fault = flipped(body), ""
        expected = self.headers.get("x-amz-checksum-sha256")
        if expected and base64.b64encode(hashlib.sha256(body).digest()).decode() != expected:
            fault = "checksum"
        if fault in ERRORS:
            self._refuse(*ERRORS[fault])
        else:
            self._send(*self._forwarded(body), fault)

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

    def _refuse(self, status: int, code: str, message: str) -> None:
        text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
        self._send(status, {"Content-Type": "application/xml", "Content-Length": str(len(text))}, text, "")

    def _forwarded(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(*self.server.behind)
        dropped = ("connection", "expect", "transfer-encoding")
        headers = {name: value for name, value in self.headers.items() if name.lower() not in dropped}
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer.status, dict(answer.getheaders()), data

    def _send(self, status: int, headers: dict[str, str], data: bytes, fault: str) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        length = headers.get("Content-Length", str(len(data))) if self.command == "HEAD" else str(len(data))
        if status != 204:
            self.send_header("Content-Length", length)
        data = flipped(data) if fault == "flip" and status < 300 else data
        if fault not in ("cut", "stall"):
            self.end_headers()
            self.wfile.write(b"" if self.command == "HEAD" else data)
            return
        if data:  # half of it; an answer without a body is lost as a whole
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
        if fault == "stall":
            self.server.healed.wait(60)
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Quiet."""


def flipped(data: bytes) -> bytes:
    """With one bit of one byte turned, another one each time."""
    place = _dice.randrange(len(data)) if data else 0
    return data[:place] + bytes(byte ^ 1 for byte in data[place : place + 1]) + data[place + 1 :]


@dataclass(frozen=True)
class Server:
    """A bucket of its own for one test."""

    uri: str
    """s3://<bucket>"""
    client: Any
    """A boto3 client past the proxy: it meets no fault and is not counted."""
    proxy: Proxy

    @property
    def bucket(self) -> str:
        return self.uri.removeprefix("s3://")

    @property
    def seen(self) -> list[Seen]:
        """Every request to this bucket, in order; a thread of a test before may still ask for another."""
        return [one for one in list(self.proxy.seen) if one.bucket == self.bucket]

    @property
    def counts(self) -> Counter[tuple[str, str]]:
        """Requests by method and key."""
        return Counter((one.method, one.key) for one in self.seen)

    @property
    def struck(self) -> int:
        """Requests that met a fault."""
        return sum(bool(one.fault) for one in self.seen)

    def faults(
        self,
        kind: str,
        key: str = "",
        method: str = "GET",
        times: float = float("inf"),
        share: float = 1.0,
        seed: int = 0,
    ) -> None:
        """From now on: `kind` (one of FAULTS) for requests whose key has the pattern; `times` at most, a seeded share of them."""
        assert kind in FAULTS
        self.proxy.healed.clear()
        if kind == "stall":
            client_module.PATIENCE = client_module.PATIENCE._replace(
                read_seconds=STALL_SECONDS
            )  # the fixture restores it
        self.proxy.faults.append(Fault(kind, method, self.bucket, re.compile(key), times, share, random.Random(seed)))

    def heal(self) -> None:
        """No more faults."""
        self.proxy.faults.clear()
        self.proxy.healed.set()

    def put(self, key: str, data: bytes) -> str:
        """An object, past the proxy; its address."""
        self.client.put_object(Bucket=self.bucket, Key=key, Body=data)
        return f"{self.uri}/{key}"

    def get(self, key: str) -> bytes:
        """An object's content, past the proxy."""
        content: bytes = self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return content

    def keys(self) -> list[str]:
        """What lies in the bucket."""
        return [one["Key"] for one in self.client.list_objects_v2(Bucket=self.bucket).get("Contents", [])]


@contextlib.contextmanager
def serving() -> Iterator[tuple[Proxy, Any]]:
    """moto's server and the proxy in front of it; and a client past the proxy."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    proxy = Proxy((host, port))
    threading.Thread(target=proxy.serve_forever, args=(0.02,), daemon=True).start()
    keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing", "region_name": "us-east-1"}
    yield proxy, boto3.client("s3", endpoint_url=f"http://{host}:{port}", **keys)
    proxy.shutdown()
    proxy.server_close()
    moto.stop()


@pytest.fixture(scope="session")
def _s3_server() -> Iterator[tuple[Proxy, Any]]:
    """Once for all tests."""
    with serving() as running:
        yield running


def bucket(running: tuple[Proxy, Any], monkeypatch: pytest.MonkeyPatch) -> Server:
    """A new bucket, on a server that this process and those it starts meet through AWS_*."""
    proxy, direct = running
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.server_port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "very-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nonexistent/config",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent/credentials",
        "NO_PROXY": "127.0.0.1",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    server = Server(f"s3://test-{next(_numbers)}", direct, proxy)
    direct.create_bucket(Bucket=server.bucket)
    return server


@pytest.fixture
def s3(_s3_server: tuple[Proxy, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """An S3 server that this process and those it starts meet through AWS_*; waits are short in this one."""
    monkeypatch.setattr(client_module, "PATIENCE", QUICK)
    server = bucket(_s3_server, monkeypatch)
    server.proxy.seen.clear()
    yield server
    server.heal()
