"""The small server: who may ask, what is read, what every answer forbids, and how it ends."""

import contextlib
import http.client
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages.lib.core import loopback
from stages.lib.core.loopback import Answer, Request, said
from stages.lib.core.outcome import Refusal
from tests.workspace import ROOT, environment

LARGEST = 1000


def respond(request: Request) -> Answer:
    """Says what it understood."""
    if request.path == "/refused":
        raise Refusal("put it right")
    if request.path == "/broken":
        raise ZeroDivisionError("a secret of ours")
    return said(200, f"{request.method} {request.path} {dict(request.query)} {len(request.body)}")


@pytest.fixture(scope="module")
def server() -> Iterator[loopback.Server]:
    """Answers in a thread of this process."""
    one = loopback.Server(respond, 0, LARGEST)
    threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield one
    one.shutdown()
    one.server_close()


def ask(
    server: loopback.Server, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, str, dict[str, str]]:
    """(status, body, headers)."""
    kind = {"Content-Type": loopback.BODY} if body is not None else {}
    given = {name.replace("_", "-"): value.format(port=server.server_port) for name, value in headers.items()}
    line = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    with contextlib.closing(line):
        line.request(method, path, body, kind | given)
        answer = line.getresponse()
        return answer.status, answer.read().decode(), dict(answer.getheaders())


def test_request__arrives_as_it_was_sent(server: loopback.Server) -> None:
    assert ask(server, "GET", "/a%20b?x=1&y=&x=2")[:2] == (200, "GET /a%20b {'x': '2', 'y': ''} 0\n")
    assert ask(server, "POST", "/p", b"z" * LARGEST)[:2] == (200, f"POST /p {{}} {LARGEST}\n")
    assert ask(server, "POST", "/p", b"")[:2] == (200, "POST /p {} 0\n")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "127.0.0.1:{port}"}, 200),
        ({"Host": "localhost:{port}"}, 200),
        ({"Host": "127.0.0.1"}, 403),
        ({"Host": "127.0.0.1:1"}, 403),
        ({"Host": "rebound.example:{port}"}, 403),
        ({"Host": "127.0.0.1.example:{port}"}, 403),
        ({"Host": ""}, 403),
        ({"Origin": "http://127.0.0.1:{port}"}, 200),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "https://elsewhere.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": "multipart/form-data; boundary=x"}, 415),
        ({"Content_Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content_Length": "-1"}, 411),
        ({"Content_Length": "1e3"}, 411),
        ({"Content_Length": "99999999999999999999"}, 411),
    ],
    ids=str,
)
def test_request__of_another_name_site_or_kind_is_refused(
    server: loopback.Server, headers: dict[str, str], status: int
) -> None:
    """A name that was made to point to 127.0.0.1, a form or script of another site, a body of no length."""
    found, text, _ = ask(server, "POST", "/", b"abc", **headers)
    assert found == status, text


def test_request__in_pieces_or_twice_described_is_refused(server: loopback.Server) -> None:
    """Two lengths or two hosts are how one request is passed off as two."""
    head = f"POST / HTTP/1.1\r\nHost: 127.0.0.1:{server.server_port}\r\nContent-Type: {loopback.BODY}\r\n"
    for more, status in (
        ("Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"411"),
        ("Content-Length: 1\r\nContent-Length: 1\r\n\r\nx", b"411"),
        ("Content-Length: 1\r\nHost: other.example\r\n\r\nx", b"403"),
        ("Content-Length: 1\r\n\r\nx", b"200"),
    ):
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=30) as line:
            line.sendall((head + more).encode())
            assert line.recv(100).split()[1] == status, more


def test_body__too_large_is_refused_and_the_sender_hears_why(server: loopback.Server) -> None:
    status, text, _ = ask(server, "POST", "/", b"x" * (LARGEST + 1))
    assert status == 413 and text == "1,001 bytes were sent; more than 1,000 are not taken.\n"
    assert ask(server, "POST", "/", bytes(5_000_000))[0] == 413
    assert ask(server, "GET", "/?" + "x" * 3000)[0] == 414
    assert ask(server, "GET", "/?" + "&".join("abcdefghijklmnopqrst"))[0] == 200
    assert ask(server, "GET", "/?" + "&".join(f"{n}=" for n in range(21)))[0] == 400


def test_answer__forbids_to_be_framed_or_read_by_others(server: loopback.Server) -> None:
    """Also where it is a refusal."""
    for path, host in (("/", "127.0.0.1:{port}"), ("/", "x.example")):
        _, _, headers = ask(server, "GET", path, Host=host)
        assert headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert headers["X-Content-Type-Options"] == "nosniff" and headers["Cache-Control"] == "no-store"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin" and headers["Server"] == "tutelage"
        assert "Access-Control-Allow-Origin" not in headers
    assert ask(server, "OPTIONS", "/")[0] == 501 and ask(server, "PUT", "/", b"x")[0] == 501


def test_error__of_ours_tells_nothing_and_a_refusal_its_sentence(server: loopback.Server) -> None:
    assert ask(server, "GET", "/refused")[:2] == (422, "put it right\n")
    status, text, _ = ask(server, "GET", "/broken")
    assert status == 500 and "secret" not in text and "Zero" not in text
    assert ask(server, "GET", "/")[0] == 200


def test_connections__that_say_nothing_do_not_keep_others_out(
    server: loopback.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as there are places, silent; the next one waits until they are given up."""
    monkeypatch.setattr(loopback.Handler, "timeout", 0.3)
    with contextlib.ExitStack() as silent:
        for _ in range(loopback.MOST_CALLS):
            silent.enter_context(socket.create_connection(("127.0.0.1", server.server_port), timeout=30))
        assert ask(server, "GET", "/")[0] == 200


def test_server__listens_on_loopback_alone_and_a_taken_port_is_a_sentence(server: loopback.Server) -> None:
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    mine = [row[1] for row in rows if row[1].endswith(f":{server.server_port:04X}") and row[3] == "0A"]
    assert mine == [f"0100007F:{server.server_port:04X}"]
    with pytest.raises(Refusal, match=r"is not free .*--port"):
        loopback.Server(respond, server.server_port)


PROGRAM = """
from stages.lib.core import loopback
loopback.serve(loopback.Server(lambda request: loopback.said(200, "here"), 0), "At")
"""


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_serve__says_where_and_ends_without_a_traceback(signum: signal.Signals) -> None:
    """Exit code 0 within a second or so; a connection that is open meanwhile does not hold it up."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    greeting = process.stdout.readline()
    assert greeting.startswith("At http://127.0.0.1:") and greeting.endswith("(Ctrl-C ends it)\n")
    port = int(greeting.split("127.0.0.1:")[1].split("/")[0])
    with socket.create_connection(("127.0.0.1", port), timeout=30):
        began = time.monotonic()
        process.send_signal(signum)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 0 and not errors and time.monotonic() - began < 10
