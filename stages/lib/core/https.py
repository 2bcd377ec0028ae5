"""One large file over https, whole or not at all: resumed after a cut connection, bounded, never sent to another scheme.

What arrived is for the caller to prove by its sha256; nothing here trusts the host beyond its certificate.
"""

import http.client
import json
import logging
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from stages.lib.core.outcome import Refusal

log = logging.getLogger(__name__)
MOST_BYTES = 16 << 30  # three times the largest RegNetY in single precision
TIMEOUT_SECONDS = 30.0  # of silence, not of the whole
TRIES = 8  # in a row without a byte gained
BLOCK = 1 << 20


class _SameScheme(urllib.request.HTTPRedirectHandler):
    """Follows a redirect only where the new address has the old one's scheme: https stays https."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        old, new = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if new != old:
            raise Refusal(f"{req.full_url} redirects from {old} to {new or 'nothing'}: {newurl}. That is not followed.")
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
    through, failed = through or opener(), 0
    plain = any(
        isinstance(handler, urllib.request.HTTPHandler) for handler in vars(through)["handlers"]
    )  # typeshed lacks it
    if urlsplit(url).scheme not in ("https", "http" if plain else "https"):
        raise Refusal(f"{url} is not fetched: https is the only scheme.")
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
                    f"{url} answers {error.code} {error.reason}. Open it in a browser; if it moved, change the address."
                ) from None
            problem: Exception = error
        except (OSError, http.client.HTTPException) as error:
            if isinstance(getattr(error, "reason", None), ssl.SSLCertVerificationError):
                raise Refusal(f"{url}: its certificate is not trusted ({error}). Nothing was fetched.") from None
            problem = error
        gained = path.exists() and path.stat().st_size > before
        failed = 1 if gained else failed + 1
        if failed >= TRIES:
            raise OSError(f"{url} could not be fetched after {TRIES} attempts, the last: {problem}") from problem
        log.warning("%s: %s; trying again", url, problem)
        pause(min(2.0**failed, 60.0))


def _attempt(
    url: str, path: Path, through: urllib.request.OpenerDirector, most_bytes: int, timeout_seconds: float
) -> None:
    """One request for what is missing; appends to `path`. Raises OSError or HTTPException where the body ends too early."""
    there, tag = _begun(path)
    headers = {"Range": f"bytes={there}-", "If-Range": tag} if there else {}
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity", **headers})
    with through.open(request, timeout=timeout_seconds) as answer:
        if answer.status != 206:  # the whole file: no range was asked for, or it changed since
            there = 0
        length = answer.headers.get("Content-Length")
        total = there + int(length) if length else None
        if total and total > most_bytes:
            raise Refusal(f"{url} has {total:,} bytes, more than the {most_bytes:,} a file of weights may have.")
        _remember(path, answer.headers.get("ETag"))
        with path.open("r+b" if path.exists() else "wb") as file:
            file.truncate(there)
            file.seek(there)
            got = _copy(answer, file, most_bytes - there, url)
    if total is not None and there + got < total:
        raise http.client.IncompleteRead(b"", total - there - got)
    _tag_of(path).unlink(missing_ok=True)


def _copy(answer: IO[bytes], file: IO[bytes], most_bytes: int, url: str) -> int:
    """Bytes copied. Raises Refusal above most_bytes, whatever length the server named."""
    copied = 0
    while block := answer.read(BLOCK):
        copied += len(block)
        if copied > most_bytes:
            raise Refusal(f"{url} sends more than the {most_bytes:,} bytes it may still have.")
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
