"""A small web server for whoever sits at this machine: it listens on 127.0.0.1, and answers only who calls it by that name.

Python's own `http.server`, in front of a function from request to answer. Starlette and uvicorn are installed, but as
Prefect's, without which the stages run; and what is wanted here is less than they do: no forms of several parts, no files by their
names, no streams. (Gradio asks its maker's servers, is as large as the rest, and wants other versions of what Prefect pins.)

A page of another site that a person has open could ask too, since its browser is on this machine. So the Host must be ours (a name
that was made to point to 127.0.0.1 is not), what changes or costs something is a POST of a kind that browsers do not send across
sites without asking first, and answers forbid to be framed or read by others.
"""

import contextlib
import errno
import http.client
import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

from stages.lib.core.outcome import Refusal

log = logging.getLogger(__name__)
HOST = "127.0.0.1"
NAMES = (HOST, "localhost")
BODY = "application/octet-stream"
"""The only kind of content that is taken: bytes. A form of another site cannot have it, and a script of one must ask first."""
MOST_CALLS, SILENT_SECONDS, DRAINED = 16, 10.0, 1 << 28
"""Connections at a time; seconds that one may say nothing; bytes of a refused body that are read, so that its sender hears why."""
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Request:
    """What was asked."""

    method: str
    """GET or POST."""
    path: str
    """Without the query, as it was sent: compare it with paths that are known."""
    query: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True)
class Answer:
    """What is sent back."""

    body: bytes
    kind: str = "text/plain; charset=utf-8"
    status: int = 200
    policy: str = "default-src 'none'; frame-ancestors 'none'"
    """Content-Security-Policy."""
    more: Mapping[str, str] = field(default_factory=dict)
    """Further headers."""


Respond = Callable[[Request], Answer]


def said(status: int, sentence: str) -> Answer:
    """A sentence for people."""
    return Answer((sentence + "\n").encode(), status=status)


class Server(ThreadingHTTPServer):
    """Listens from the moment it is made. Raises Refusal where the port is taken."""

    daemon_threads = True

    def __init__(self, respond: Respond, port: int, largest: int = 0) -> None:
        """respond: called in a thread a connection. port: 0 for any that is free. largest: bytes of a POST's body."""
        self.respond, self.largest = respond, largest
        self.places = threading.BoundedSemaphore(MOST_CALLS)
        try:
            super().__init__((HOST, port), Handler)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            raise Refusal(f"port {port} of {HOST} is not free ({error.strerror}); choose another with --port") from None

    @property
    def address(self) -> str:
        """Where a browser finds it."""
        return f"http://{HOST}:{self.server_port}/"

    def process_request(self, request: object, client_address: object) -> None:
        """In a thread of its own, unless there are too many: then it waits its turn."""
        if not self.places.acquire(timeout=SILENT_SECONDS):
            self.shutdown_request(request)  # type: ignore[arg-type]
            return
        super().process_request(request, client_address)  # type: ignore[arg-type]

    def process_request_thread(self, request: object, client_address: object) -> None:
        """Gives its place back at the end."""
        try:
            super().process_request_thread(request, client_address)  # type: ignore[arg-type]
        finally:
            self.places.release()

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002  # as the library calls it
        """Who went away while we spoke is no error of ours."""
        if not isinstance(sys.exc_info()[1], OSError):
            log.exception("a connection failed")


class Handler(BaseHTTPRequestHandler):
    """One connection, one request."""

    server: Server
    timeout = SILENT_SECONDS

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def version_string(self) -> str:
        """Nobody needs to know."""
        return "tutelage"

    def log_message(self, format: str, *values: object) -> None:  # noqa: A002  # the name it has in the library
        """A line a request says nothing that the person who asked does not know."""

    def _answer(self) -> None:
        refused = self._foreign() or self._unreadable()
        if refused:
            self._drain()
            self._send(refused)
            return
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True, max_num_fields=20))
        body = self.rfile.read(self._length() or 0) if self.command == "POST" else b""
        try:
            answer = self.server.respond(Request(self.command, parts.path, query, body))
        except Refusal as refusal:
            answer = said(422, str(refusal))
        except Exception:
            log.exception("%s failed", parts.path)
            answer = said(500, "This failed; what went wrong stands where the server was started.")
        self._send(answer)

    def _foreign(self) -> Answer | None:
        """A refusal for who asked by another name, or from a page that is not ours."""
        ours = {f"{name}:{self.server.server_port}" for name in NAMES}
        if self.headers.get_all("Host", []) not in [[name] for name in ours]:
            return said(403, f"This page answers to {self.server.address} alone.")
        origin = self.headers.get("Origin")
        if origin is not None and origin not in {f"http://{name}" for name in ours}:
            return said(403, "A page of another site asked.")
        return None

    def _unreadable(self) -> Answer | None:
        """A refusal for a query or a body that is not read."""
        if len(self.path) > 2000:
            return said(414, "The address is too long.")
        try:
            parse_qsl(urlsplit(self.path).query, max_num_fields=20)
        except ValueError:
            return said(400, "The address cannot be read.")
        if self.command != "POST":
            return None
        if self.headers.get("Transfer-Encoding") or self._length() is None:
            return said(411, "The length of what is sent must be said.")
        if (length := self._length() or 0) > self.server.largest:
            return said(413, f"{length:,} bytes were sent; more than {self.server.largest:,} are not taken.")
        if self.headers.get("Content-Type") != BODY:
            return said(415, f"What is sent must be {BODY}.")
        return None

    def _length(self) -> int | None:
        """Of the body, in bytes; None where none, or nothing that is one, was said."""
        words = self.headers.get_all("Content-Length", [])
        return (
            int(words[0])
            if len(words) == 1 and words[0].isascii() and words[0].isdigit() and len(words[0]) < 16
            else None
        )

    def _drain(self) -> None:
        """Read what nobody wants, or its sender is cut off in the middle and never sees the answer."""
        left = min(self._length() or 0, DRAINED)
        with contextlib.suppress(OSError):
            while left > 0 and (piece := self.rfile.read(min(left, 1 << 16))):
                left -= len(piece)

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status, http.client.responses.get(answer.status))
        given = {"Content-Type": answer.kind, "Content-Security-Policy": answer.policy, **HEADERS, **answer.more}
        for name, value in {**given, "Content-Length": str(len(answer.body)), "Connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body)


def serve(server: Server, greeting: str) -> None:
    """Print the greeting, with the address, and answer until SIGTERM or Ctrl-C, which end it without a traceback."""
    woken, waking = os.pipe()
    os.set_blocking(waking, False)
    signal.set_wakeup_fd(
        waking
    )  # from C, whatever this thread is doing: a handler that sets an Event can meet its own lock
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda _signum, _frame: None)
    answering = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True)
    answering.start()
    sys.stdout.write(f"{greeting} {server.address}  (Ctrl-C ends it)\n")
    sys.stdout.flush()
    select.select([woken], [], [])
    server.shutdown()
    server.server_close()
