"""One large file over https, whole or not at all: resumed after a cut, bounded in size and time, never sent to another scheme.

What arrived is for the caller to prove by its sha256; nothing here trusts the host beyond its certificate.
"""

import http.client
import json
import logging
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from stages.lib.core.outcome import Refusal
from stages.lib.params.credentials import masked

log = logging.getLogger(__name__)
MOST_BYTES = 16 << 30  # three times the largest RegNetY in single precision
TIMEOUT_SECONDS = 30.0  # of silence, not of the whole
HEAD_SECONDS = 120.0  # for an answer to begin, its redirects included: a byte every now and then is no silence
PACE_BYTES, PACE_SECONDS = 1 << 20, 60.0
"""A body that brings less in this time is given up and asked for again: it would go on for months."""
TRIES = 8  # in a row that brought no more than LITTLE
LITTLE = 1 << 16  # bytes
BLOCK = 1 << 20


class Pace:
    """Looks at the clock while bytes arrive."""

    def __init__(self, least_bytes: int = PACE_BYTES, in_seconds: float = PACE_SECONDS) -> None:
        self.least_bytes, self.in_seconds = least_bytes, in_seconds
        self.began, self.got = time.monotonic(), 0

    def took(self, size: int) -> None:
        """So many bytes more. Raises TimeoutError where too few came in too long a time."""
        self.got += size
        now = time.monotonic()
        if now - self.began < self.in_seconds:
            return
        if self.got < self.least_bytes:
            raise TimeoutError(f"only {self.got:,} bytes came in {now - self.began:.0f} s")
        self.began, self.got = now, 0


class _SameScheme(urllib.request.HTTPRedirectHandler):
    """Follows a redirect only where the new address has the old one's scheme: https stays https."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        old, new = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if new != old:
            raise Refusal(
                f"{masked(req.full_url)} redirects from {old} to {new or 'nothing'}: {masked(newurl)}. That is not followed."
            )
        if "@" in urlsplit(newurl).netloc:
            raise Refusal(f"{masked(req.full_url)} redirects to an address with a user in it. That is not followed.")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def opener(*handlers: urllib.request.BaseHandler) -> urllib.request.OpenerDirector:
    """Knows https, the proxies of the environment and redirects within https; no other scheme unless a handler adds it."""
    made = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _SameScheme(),
        *handlers,
    ):
        made.add_handler(handler)
    return made


def download(
    url: str,
    path: Path,
    through: urllib.request.OpenerDirector | None = None,
    most_bytes: int = MOST_BYTES,
    timeout_seconds: float = TIMEOUT_SECONDS,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Fetch `url` to `path`; a file that is there already is gone on with if the server still has the one it began with.

    A cut or silent connection is tried again, from where it broke. Raises Refusal for what trying again cannot mend (no such
    file, no permission, larger than most_bytes, another scheme), OSError when the network gives nothing in TRIES attempts.
    """
    through, failed, name = through or opener(), 0, masked(url)
    plain = any(
        isinstance(handler, urllib.request.HTTPHandler) for handler in vars(through)["handlers"]
    )  # typeshed lacks it
    if urlsplit(url).scheme not in ("https", "http" if plain else "https"):
        raise Refusal(f"{name} is not fetched: https is the only scheme.")
    if "@" in urlsplit(url).netloc:
        raise Refusal(
            f"{name} carries a user or a password, and none is sent. Give an address that needs none, or a signed one."
        )
    while True:
        before = path.stat().st_size if path.exists() else 0
        try:
            _attempt(url, path, through, most_bytes, timeout_seconds)
            return
        except urllib.error.HTTPError as error:
            if error.code == 416 and before:  # nothing is missing, or the file is another one by now: start over
                path.unlink()
            elif error.code < 500 and error.code not in (408, 429):
                raise Refusal(
                    f"{name} answers {error.code} {masked(str(error.reason))}. Open it in a browser; if it moved, change "
                    "the address."
                ) from None
            problem: Exception = error
        except (OSError, http.client.HTTPException) as error:
            if isinstance(getattr(error, "reason", None), ssl.SSLCertVerificationError):
                raise Refusal(f"{name}: its certificate is not trusted ({error}). Nothing was fetched.") from None
            problem = error
        gained = path.exists() and path.stat().st_size > before + LITTLE
        failed = 1 if gained else failed + 1
        if failed >= TRIES:
            raise OSError(
                f"{name} could not be fetched after {TRIES} attempts, the last: {masked(str(problem))}"
            ) from problem
        log.warning("%s: %s; trying again", name, masked(str(problem)))
        pause(min(2.0**failed, 60.0))


def _attempt(
    url: str, path: Path, through: urllib.request.OpenerDirector, most_bytes: int, timeout_seconds: float
) -> None:
    """One request for what is missing; appends to `path`. Raises OSError or HTTPException where the body ends too early."""
    there, tag = _begun(path)
    headers = {"Range": f"bytes={there}-", "If-Range": tag} if there else {}
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity", **headers})
    with _answer(through, request, timeout_seconds) as answer:
        if answer.status != 206:  # the whole file: no range was asked for, or it changed since
            there = 0
        elif not (answer.headers.get("Content-Range") or f"bytes {there}-").startswith(f"bytes {there}-"):
            path.unlink()
            raise http.client.HTTPException(
                f"asked for bytes from {there:,}, got {answer.headers['Content-Range'][:100]!r}"
            )
        length = answer.headers.get("Content-Length") or ""
        total = there + int(length) if length.isdecimal() and len(length) < 20 else None
        if total and total > most_bytes:
            raise Refusal(
                f"{masked(url)} has {total:,} bytes, more than the {most_bytes:,} a file of weights may have."
            )
        _remember(path, answer.headers.get("ETag"))
        with path.open("r+b" if path.exists() else "wb") as file:
            file.truncate(there)
            file.seek(there)
            got = _copy(answer, file, most_bytes - there, url)
    if total is not None and there + got < total:
        raise http.client.IncompleteRead(b"", total - there - got)
    _tag_of(path).unlink(missing_ok=True)


def _answer(through: urllib.request.OpenerDirector, request: urllib.request.Request, timeout_seconds: float) -> Any:
    """The answer once its head is there. Raises TimeoutError where that takes too long, and whatever `open` raises.

    In a thread of its own, which is left behind if it comes to that: the timeout of a connection is that of its silence.
    """
    came: list[Any] = []

    def ask() -> None:
        try:
            came.append(through.open(request, timeout=timeout_seconds))
        except BaseException as error:
            came.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HEAD_SECONDS)
    if not came:
        raise TimeoutError(f"no answer began within {HEAD_SECONDS:g} s")
    if isinstance(came[0], BaseException):
        raise came[0]
    return came[0]


def _copy(answer: Any, file: IO[bytes], most_bytes: int, url: str) -> int:
    """Bytes copied. Raises Refusal above most_bytes, whatever length the server named, TimeoutError where they trickle."""
    copied, pace = 0, Pace(PACE_BYTES, PACE_SECONDS)
    while block := answer.read1(BLOCK):
        pace.took(len(block))
        copied += len(block)
        if copied > most_bytes:
            raise Refusal(f"{masked(url)} sends more than the {most_bytes:,} bytes it may still have.")
        file.write(block)
    return copied


def _begun(path: Path) -> tuple[int, str]:
    """(bytes that are there, the tag of the file they belong to); (0, "") where nothing can be gone on with."""
    try:
        tag = str(json.loads(_tag_of(path).read_text()))
    except (OSError, ValueError):
        return 0, ""
    return (path.stat().st_size, tag) if path.exists() else (0, "")


def _remember(path: Path, tag: str | None) -> None:
    """Keep a strong tag beside the bytes; a weak one names no bytes, so that such a file starts over."""
    if tag and not tag.startswith("W/"):
        _tag_of(path).write_text(json.dumps(tag))
    else:
        _tag_of(path).unlink(missing_ok=True)


def _tag_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.etag")
