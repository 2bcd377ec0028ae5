"""Downloads against a server on loopback that cuts bodies, ignores ranges, changes its file, lies and redirects."""

import hashlib
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from stages.lib.core.outcome import Refusal
from stages.lib.ingestion import download
from stages.lib.ingestion.official import Needed

BODY = bytes(range(256)) * 4096  # 1 MiB
ETAG = '"first"'


class Server(ThreadingHTTPServer):
    """Serves BODY; what a request gets is set per test."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.etag = BODY, ETAG
        self.asked: list[dict[str, str]] = []
        self.cut: list[int] = []
        """Bytes after which the next answers end; then whole ones."""
        self.ranges, self.lie = True, 0
        self.answers: list[int] = []
        """Statuses of the next answers; then 200 and 206."""
        self.location = ""

    def needed(self, **changes: Any) -> Needed:
        values = {
            "name": "set.tgz", "bytes": len(BODY), "md5": hashlib.md5(BODY).hexdigest(), "what": "images",
            "url": f"http://127.0.0.1:{self.server_address[1]}/set.tgz",
        }  # fmt: skip
        return Needed(**(values | changes))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"
    server: Server

    def do_GET(self) -> None:
        server = self.server
        server.asked.append(dict(self.headers))
        status = server.answers.pop(0) if server.answers else 0
        if status:
            self.send_response(status)
            if server.location:
                self.send_header("Location", server.location)
            self.end_headers()
            return
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        same = self.headers.get("If-Range", server.etag) == server.etag
        start = int(found[1]) if found and same and server.ranges else 0
        total = len(server.body)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start + server.lie}-{total - 1}/{total}")
        if server.etag:
            self.send_header("ETag", server.etag)
        self.send_header("Content-Length", str(total - start))
        self.end_headers()
        end = start + server.cut.pop(0) if server.cut else total
        self.wfile.write(server.body[start:end])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def fetch(server: Server, folder: Path, **changes: Any) -> bytes:
    return download.fetch(server.needed(**changes), folder, wait=lambda _: None).read_bytes()


def ranges(server: Server) -> list[str]:
    return [asked.get("Range", "") for asked in server.asked]


def test_fetch__whole(server: Server, tmp_path: Path) -> None:
    assert fetch(server, tmp_path / "new") == BODY
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["set.tgz"]
    assert fetch(server, tmp_path / "new") == BODY and len(server.asked) == 1  # already there: only compared


def test_fetch__continues_cut_bodies(server: Server, tmp_path: Path) -> None:
    server.cut = [300_000, 400_000]
    assert fetch(server, tmp_path) == BODY
    assert ranges(server) == ["", "bytes=300000-", "bytes=700000-"]
    assert [asked.get("If-Range") for asked in server.asked] == [None, ETAG, ETAG]


def test_fetch__another_call_continues(server: Server, tmp_path: Path) -> None:
    server.cut = [300_000, *[0] * 20]
    with pytest.raises(ConnectionError, match="no new byte in 5 tries"):
        fetch(server, tmp_path)
    assert (tmp_path / ".set.tgz.part").stat().st_size == 300_000 and not (tmp_path / "set.tgz").exists()
    server.cut, server.asked = [], []
    assert fetch(server, tmp_path) == BODY
    assert ranges(server) == ["bytes=300000-"]
    assert [path.name for path in tmp_path.iterdir()] == ["set.tgz"]


def test_fetch__a_changed_file_begins_anew(server: Server, tmp_path: Path) -> None:
    """Half of one file and half of another must never be joined."""
    server.body, server.etag, server.cut = bytes(len(BODY)), '"before"', [300_000, *[0] * 20]
    with pytest.raises(ConnectionError):
        fetch(server, tmp_path)
    server.body, server.etag, server.cut, server.asked = BODY, ETAG, [], []
    assert fetch(server, tmp_path) == BODY
    assert ranges(server) == ["bytes=300000-"]  # asked for the rest, got the whole


@pytest.mark.parametrize("change", [{"ranges": False}, {"etag": ""}, {"etag": 'W/"weak"'}])
def test_fetch__servers_without_ranges_or_validators(server: Server, tmp_path: Path, change: dict[str, Any]) -> None:
    for name, value in change.items():
        setattr(server, name, value)
    server.cut = [300_000]
    assert fetch(server, tmp_path) == BODY


def test_fetch__a_lying_range_begins_anew(server: Server, tmp_path: Path) -> None:
    server.cut, server.lie = [300_000], 7
    assert fetch(server, tmp_path) == BODY
    assert ranges(server) == ["", "bytes=300000-", ""]


def test_fetch__tries_again_after_errors_of_the_server(server: Server, tmp_path: Path) -> None:
    server.answers = [503, 500, 429]
    waits: list[float] = []
    assert download.fetch(server.needed(), tmp_path, wait=waits.append).read_bytes() == BODY
    assert waits == [2.0, 4.0, 8.0]


def test_fetch__a_part_that_is_whole_is_only_compared(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".set.tgz.part").write_bytes(BODY)
    assert fetch(server, tmp_path) == BODY and server.asked == []


def test_fetch__refused_ranges(server: Server, tmp_path: Path) -> None:
    """416: without a known size the file may be whole already; with this server it is not said, so it begins anew."""
    (tmp_path / ".set.tgz.part").write_bytes(BODY[:10])
    (tmp_path / ".set.tgz.tag").write_text(ETAG)
    server.answers = [416]
    assert fetch(server, tmp_path, bytes=0) == BODY
    assert ranges(server) == ["bytes=10-", ""]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"md5": "0" * 32}, r"md5 \w+, which is not the official file: set.tgz .* thrown away"),
        ({"bytes": 1000}, "has 1,048,576 bytes and should have 1,000"),
    ],
)
def test_fetch__refuses_other_files(server: Server, tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(Refusal, match=words):
        fetch(server, tmp_path, **changes)
    assert not (tmp_path / "set.tgz").exists()
    assert fetch(server, tmp_path) == BODY  # what was thrown away does not spoil the next try


def test_fetch__flipped_bytes_are_found(server: Server, tmp_path: Path) -> None:
    server.body = BODY[:500] + b"\xff" + BODY[501:]
    with pytest.raises(Refusal, match="not the official file"):
        fetch(server, tmp_path)
    assert not list(tmp_path.glob("*.tgz"))


def test_fetch__refuses_a_wrong_file_that_is_there(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set.tgz").write_bytes(b"mine")
    with pytest.raises(Refusal, match="Remove it and run again"):
        fetch(server, tmp_path)
    assert (tmp_path / "set.tgz").read_bytes() == b"mine" and server.asked == []


def test_fetch__refuses_what_is_gone(server: Server, tmp_path: Path) -> None:
    server.answers = [404]
    with pytest.raises(Refusal, match=r"answers 404 .* Get set.tgz \(1,048,576 bytes"):
        fetch(server, tmp_path)
    assert len(server.asked) == 1


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/x", "data:text/plain,x"])
def test_fetch__refuses_redirects_to_other_schemes(server: Server, tmp_path: Path, target: str) -> None:
    server.answers, server.location = [302], target
    with pytest.raises(Refusal):
        fetch(server, tmp_path)
    assert not (tmp_path / "set.tgz").exists()


def test_fetch__follows_redirects_on_http(server: Server, tmp_path: Path) -> None:
    server.answers, server.location = [302], server.needed().url.replace("set.tgz", "there/set.tgz")
    assert fetch(server, tmp_path) == BODY


def test_redirects__from_https_only_to_https() -> None:
    follow = download._Redirects().redirect_request
    secure = urllib.request.Request("https://example.org/a")
    with pytest.raises(Refusal, match=r"leads to http://example.org/b, which is not https"):
        follow(secure, None, 302, "", {}, "http://example.org/b")
    plain = urllib.request.Request("http://example.org/a")
    assert follow(plain, None, 302, "", {}, "https://example.org/b").full_url == "https://example.org/b"


def test_main__fetches_and_says_what_to_do_next(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    for name, words in (("tiny-imagenet", "python -m zipfile -e"), ("cifar-10", "Set `path` of this set in `sources`")):
        monkeypatch.setitem(download.SETS, name, (server.needed(name=f"{name}.tgz"),))
        download.main([name, str(tmp_path)])
        assert (tmp_path / f"{name}.tgz").read_bytes() == BODY
        assert words in caplog.text


def test_main__refuses_sets_that_no_program_can_fetch() -> None:
    cases: list[tuple[list[str], str]] = [
        (["imagenet", "x"], r"cannot be fetched by a program(.|\n)*ILSVRC2012_img_train.tar \(147,897,477,120 bytes"),
        (["stanford-cars", "x"], r"cars_test_annos_withlabels.mat \(185,758 bytes"),
        (["imagenet21k", "x"], r"<cifar-10\|cifar-100\|flowers-102"),
        (["cifar-10"], "Say which set and where to"),
    ]
    for arguments, words in cases:
        with pytest.raises(Refusal, match=words):
            download.main(arguments)


def test_command__ends_with_the_sentence_and_no_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "stages.lib.ingestion.download", "stanford-cars", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "cars_train.tgz (979,269,282 bytes, md5 065e5b463ae28d29e77c1b4b166cfe61)" in done.stderr


def test_sets__every_address_has_a_checksum_or_is_known_to_have_none() -> None:
    unchecked: Callable[[Needed], bool] = lambda one: bool(one.url) and not one.md5  # noqa: E731
    assert {one.name for needed in download.SETS.values() for one in needed if unchecked(one)} == {
        "categories.json.tar.gz"
    }
