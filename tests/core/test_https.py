"""Downloads against a real server on loopback that cuts, stalls, lies and redirects: the right bytes, or a clear error."""

import contextlib
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from stages.lib.core import https
from stages.lib.core.outcome import Refusal

CONTENT = bytes(range(256)) * 4096  # 1 MiB


class Server(ThreadingHTTPServer):
    """Answers as `script` says, one word a request, then well; remembers what was asked."""

    daemon_threads = True
    content, tag, ranges = CONTENT, '"one"', True
    lie: str | None = None
    """What stands for the length."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[str] = []
        self.asked: list[tuple[str, str | None, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/weights.pth"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        span, condition = self.headers.get("Range"), self.headers.get("If-Range")
        self.server.asked.append((self.path, span, condition))
        word = self.server.script.pop(0) if self.server.script else "well"
        if word.isdigit():
            return self.send_error(int(word))
        if word == "slow head":
            with contextlib.suppress(OSError):
                for letter in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 40:
                    time.sleep(0.05)
                    self.wfile.write(bytes([letter]))
            self.close_connection = True
            return None
        if word.startswith("to "):
            self.send_response(302)
            self.send_header("Location", word.removeprefix("to "))
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.body(word, span if condition == self.server.tag and self.server.ranges else None)

    def body(self, word: str, span: str | None) -> None:
        start = int(span.removeprefix("bytes=").removesuffix("-")) if span else 0
        if span and start >= len(self.server.content):
            return self.send_error(416)
        data = self.server.content[start:]
        self.send_response(206 if span else 200)
        if word != "unmeasured":
            self.send_header("Content-Length", str(len(data)) if self.server.lie is None else self.server.lie)
        if self.server.tag:
            self.send_header("ETag", self.server.tag)
        self.end_headers()
        if word == "trickle":  # a byte now and then: never silent for as long as the timeout
            with contextlib.suppress(OSError):
                for n in range(50):
                    time.sleep(0.05)
                    self.wfile.write(data[n : n + 1])
                    self.wfile.flush()
            self.close_connection = True
        elif word in ("cut", "stall"):
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            time.sleep(0.6 if word == "stall" else 0)
            self.close_connection = True
        else:
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy stands between a test and its own server."""
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def loopback() -> urllib.request.OpenerDirector:
    """What only tests have: plain http as well."""
    return https.opener(urllib.request.HTTPHandler())


def fetch(server: Server, path: Path, most_bytes: int = 1 << 22) -> None:
    https.download(server.url, path, loopback(), most_bytes, timeout_seconds=0.3, pause=lambda _: None)


@pytest.mark.parametrize(
    "script", [[], ["500"], ["503", "429"], ["cut"], ["cut", "cut", "500", "cut"], ["stall"], ["cut", "stall"]]
)
def test_download__gives_the_right_bytes_whatever_breaks(server: Server, tmp_path: Path, script: list[str]) -> None:
    server.script = list(script)
    fetch(server, tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["w"]
    assert len(server.asked) == len(script) + 1


def test_download__goes_on_where_it_broke_also_in_another_process(server: Server, tmp_path: Path) -> None:
    server.script = ["cut"] + ["500"] * 8
    with pytest.raises(OSError, match="could not be fetched after 8 attempts"):
        fetch(server, tmp_path / "w")
    half = (tmp_path / "w").stat().st_size
    assert 0 < half < len(CONTENT)
    fetch(server, tmp_path / "w")
    assert server.asked[-1][1:] == (f"bytes={half}-", '"one"')
    assert (tmp_path / "w").read_bytes() == CONTENT


@pytest.mark.parametrize("how", ["another tag", "no ranges", "a weak tag", "no tag"])
def test_download__starts_over_where_going_on_would_mix_two_files(server: Server, tmp_path: Path, how: str) -> None:
    if how == "a weak tag":
        server.tag = 'W/"one"'
    if how == "no tag":
        server.tag = ""
    server.script = ["cut"] + ["500"] * 8
    with pytest.raises(OSError):
        fetch(server, tmp_path / "w")
    server.content, server.ranges = CONTENT[::-1], how != "no ranges"
    if how == "another tag":
        server.tag = '"two"'
    fetch(server, tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == CONTENT[::-1]


def test_download__that_was_whole_already_is_fetched_again(server: Server, tmp_path: Path) -> None:
    """Killed between the last byte and its new name: the server has nothing after the end to give (416)."""
    (tmp_path / "w").write_bytes(CONTENT)
    (tmp_path / "w.etag").write_text('"\\"one\\""')
    fetch(server, tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == CONTENT


@pytest.mark.parametrize("word", ["well", "unmeasured"])
def test_download__more_bytes_than_allowed_are_refused(server: Server, tmp_path: Path, word: str) -> None:
    server.script = [word]
    with pytest.raises(Refusal, match="more than the"):
        fetch(server, tmp_path / "w", most_bytes=len(CONTENT) - 1)
    server.script = [word]
    fetch(server, tmp_path / "v", most_bytes=len(CONTENT))  # the control: exactly as many
    assert (tmp_path / "v").read_bytes() == CONTENT


@pytest.mark.parametrize("code", ["404", "403", "410"])
def test_download__what_trying_again_cannot_mend_is_refused_at_once(server: Server, tmp_path: Path, code: str) -> None:
    server.script = [code]
    with pytest.raises(Refusal, match=f"answers {code}"):
        fetch(server, tmp_path / "w")
    assert len(server.asked) == 1


def test_download__follows_a_redirect_of_the_same_scheme_only(server: Server, tmp_path: Path) -> None:
    server.script = [f"to {server.url}?other"]
    fetch(server, tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == CONTENT and server.asked[-1][0].endswith("?other")
    for place in ("https://127.0.0.1:1/w", "file:///etc/hostname", "ftp://127.0.0.1/w"):
        server.script = [f"to {place}"]
        with pytest.raises(Refusal, match=r"redirects from http to|answers 302"):
            fetch(server, tmp_path / "v")


def test_download__plain_http_is_not_known_unless_a_test_brings_it(server: Server, tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="https is the only scheme"):
        https.download(server.url, tmp_path / "w", pause=lambda _: None)
    assert server.asked == []


def test_download__bytes_that_trickle_are_given_up(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never silent for 0.3 s, and still no answer: the head in 2.5 s, a body of 1 MiB in 14 hours."""
    monkeypatch.setattr(https, "TRIES", 3)
    monkeypatch.setattr(https, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(https, "PACE_SECONDS", 0.2)
    for word, said in (("trickle", "bytes came in"), ("slow head", "no answer began")):
        server.script = [word] * https.TRIES
        began = time.monotonic()
        with pytest.raises(OSError, match=f"could not be fetched after 3 attempts.*{said}"):
            fetch(server, tmp_path / "f")
        assert time.monotonic() - began < 8 and not server.script
    server.script = ["slow head", "trickle"]  # the control: a server that was only slow for a while
    fetch(server, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_download__redirects_end(server: Server, tmp_path: Path) -> None:
    server.script = [f"to {server.url}?{n}" for n in range(50)]
    with pytest.raises(Refusal, match="302"):
        fetch(server, tmp_path / "f")
    assert len(server.asked) <= 11


@pytest.mark.parametrize(
    "scheme", ["file:///etc/passwd", "ftp://127.0.0.1/x", "https://127.0.0.1:1/x", "gopher://x/", "data:,x"]
)
def test_download__a_redirect_elsewhere_is_not_followed(server: Server, tmp_path: Path, scheme: str) -> None:
    """From https to http it is the same line that refuses; only loopback tests speak http at all."""
    server.script = [f"to {scheme}"]
    with pytest.raises(Refusal, match=r"(?i)redirect"):
        fetch(server, tmp_path / "f")
    assert not (tmp_path / "f").exists() and len(server.asked) == 1


def test_opener__from_https_to_http_is_refused() -> None:
    request = urllib.request.Request("https://host/w.pth?X-Amz-Signature=pl4nted")
    handler = https._SameScheme()
    with pytest.raises(Refusal, match="from https to http") as caught:
        handler.redirect_request(request, None, 302, "", {}, "http://elsewhere/w.pth?sig=pl4nted")
    assert "pl4nted" not in str(caught.value)
    assert (
        handler.redirect_request(request, None, 302, "Found", {}, "https://elsewhere/w.pth") is not None
    )  # the control


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "http://127.0.0.1/x", "ftp://127.0.0.1/x", "HTTPS+x://h/", "/etc/passwd", ""]
)
def test_download__other_schemes_are_refused_before_anything_is_asked(url: str, tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="https is the only scheme"):
        https.download(url, tmp_path / "f")


def test_download__no_password_is_sent_or_said(server: Server, tmp_path: Path) -> None:
    """In the address itself, in a redirect, and in a signature that a failure would repeat."""
    with pytest.raises(Refusal, match="carries a user or a password") as caught:
        https.download("https://user:pl4nted@127.0.0.1/x", tmp_path / "f")
    assert "pl4nted" not in str(caught.value) and not server.asked
    server.script = [f"to {server.url.replace('://', '://user:pl4nted@')}"]
    with pytest.raises(Refusal, match="a user in it") as caught:
        fetch(server, tmp_path / "f")
    assert "pl4nted" not in str(caught.value) and len(server.asked) == 1
    server.script = ["404"]
    with pytest.raises(Refusal, match="404") as caught:
        https.download(f"{server.url}?X-Amz-Signature=pl4nted", tmp_path / "f", loopback())
    assert "pl4nted" not in str(caught.value) and "pl4nted" in server.asked[-1][0]  # asked with it, and not said


@pytest.mark.parametrize("length", ["x", "-5", "1" * 30, ""])
def test_download__a_length_that_is_none_is_no_length(server: Server, tmp_path: Path, length: str) -> None:
    server.lie = length
    fetch(server, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == CONTENT
