"""Fetches the official files of a set: goes on after an interruption, compares size and md5, never leaves half a file.

run   python -m stages.lib.ingestion.download flowers-102 data/raw/flowers-102

The same command continues. Bytes arrive in .<name>.part; what is whole and right takes its name. Sets that need a
registration, or whose host is gone, are refused with the names and sizes of their files.
"""

import contextlib
import errno
import hashlib
import http.client
import logging
import os
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from stages.lib.core import https
from stages.lib.core.files import flush_folder
from stages.lib.core.outcome import Refusal
from stages.lib.ingestion import (
    cars_layout,
    cifar_layout,
    flowers_layout,
    imagenet_layout,
    inaturalist_layout,
    official,
)
from stages.lib.ingestion.official import Needed
from stages.lib.params.credentials import masked, say

log = logging.getLogger(__name__)
TINY_IMAGENET = (
    Needed(
        "tiny-imagenet-200.zip", 248_100_043, "90528d7ca1a48142e341f4ef8d21d0de",
        "Tiny-ImageNet", "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
    ),
)  # fmt: skip
SETS: dict[str, Sequence[Needed]] = {
    "cifar-10": cifar_layout.CIFAR10,
    "cifar-100": cifar_layout.CIFAR100,
    "flowers-102": flowers_layout.NEEDED,
    "inaturalist-2018": inaturalist_layout.NEEDED_2018,
    "inaturalist-2019": inaturalist_layout.NEEDED_2019,
    "tiny-imagenet": TINY_IMAGENET,
    "imagenet": imagenet_layout.NEEDED,
    "stanford-cars": cars_layout.NEEDED,
}
CHUNK = 1 << 20
QUIET_SECONDS = 60.0  # a connection that sends nothing for so long is given up
TRIES = 5  # in a row that brought next to nothing
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOENT, errno.ENOTDIR}
"""What the disk says, not the network: no use in trying again."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect within http and https, never from https to http and never to another scheme."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        before, after = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if after != before and (before, after) != ("http", "https"):
            raise Refusal(f"{req.full_url} leads to {newurl}, which is not {before}. Nothing was fetched from there.")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


OPENER = urllib.request.build_opener(_Redirects)


def fetch(one: Needed, folder: Path, wait: Callable[[float], object] = time.sleep) -> Path:
    """The file's path once it is whole and right; what an earlier call left is continued.

    wait: called with seconds before another try. Raises Refusal for what trying again cannot mend, ConnectionError after
    TRIES tries without a new byte.
    """
    target = folder / one.name
    part, tag = (target.with_name(f".{one.name}.{end}") for end in ("part", "tag"))
    if target.exists():
        _verify(one, target)
        return target
    folder.mkdir(parents=True, exist_ok=True)
    _fill(one, part, tag, wait)
    _verify(one, part)
    part.replace(target)
    flush_folder(folder)
    tag.unlink(missing_ok=True)
    return target


def _fill(one: Needed, part: Path, tag: Path, wait: Callable[[float], object]) -> None:
    """Fetch until `part` is whole, across cut connections. Raises what `fetch` raises."""
    failures = 0
    while True:
        before = _size(part)
        try:
            if not one.bytes or before != one.bytes:
                _more(one, part, tag)
            break
        except (OSError, http.client.HTTPException) as error:
            _lasting(one, error)
            if _beyond(error, before, tag):
                break
            failures = 0 if _size(part) > before + https.LITTLE else failures + 1
            if failures >= TRIES:
                raise ConnectionError(f"{one.url} gave no new byte in {TRIES} tries; the last: {error}") from error
            log.warning("%s: %s; going on at byte %s", one.name, error, f"{_size(part):,}")
            wait(2.0**failures)


def _more(one: Needed, part: Path, tag: Path) -> None:
    """Fetch what `part` lacks. tag: file with the ETag or date of what `part` holds the beginning of; both or neither count.

    Raises OSError or HTTPException where the connection failed or the body ended early.
    """
    have = _size(part) if tag.exists() and not 0 < one.bytes < _size(part) else 0
    request = urllib.request.Request(one.url, headers={"Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", tag.read_text())
    with OPENER.open(request, timeout=QUIET_SECONDS) as answer:
        start, total = _extent(answer)
        if start != have and answer.status == 206:
            tag.unlink()  # or it would be asked for the same again
            raise ConnectionError(f"asked for bytes from {have:,}, got {answer.headers.get('Content-Range')!r}")
        if one.bytes and total and total != one.bytes:
            raise Refusal(f"{one.url} has {total:,} bytes and should have {one.bytes:,}: it is another file by now.")
        limit = one.bytes or total
        if not limit:
            raise Refusal(f"{one.url} does not say how large it is, so nothing bounds the download; it was not begun.")
        if not start:
            tag.unlink(missing_ok=True)
        with part.open("r+b" if start else "wb") as file:
            if not start and (validator := _validator(answer)):
                tag.write_text(validator)
            file.seek(start)
            _copy(one, answer, file, limit)
            file.flush()
            os.fsync(file.fileno())


def _extent(answer: Any) -> tuple[int, int]:
    """(byte the body begins with, length of the whole file or 0): a server may send a range, or all from the beginning."""
    if answer.status == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", ""))
        return (int(found[1]), int(found[2])) if found else (-1, 0)
    length = answer.headers.get("Content-Length") or ""
    return 0, int(length) if length.isdigit() else 0


def _validator(answer: Any) -> str:
    """What If-Range may carry: a strong ETag, else the date of the last change, else nothing."""
    etag: str = answer.headers.get("ETag") or ""
    return etag if etag.startswith('"') else answer.headers.get("Last-Modified") or ""


def _copy(one: Needed, answer: Any, file: BinaryIO, limit: int) -> None:
    """Append the body, at most up to `limit` bytes of the file."""
    tenth = file.tell() * 10 // limit
    pace = https.Pace()
    while data := answer.read1(CHUNK):
        pace.took(len(data))
        if file.tell() + len(data) > limit:
            raise Refusal(f"{one.url} sends more than the {limit:,} bytes it should have; the download was stopped.")
        file.write(data)
        if file.tell() * 10 // limit > tenth:
            tenth = file.tell() * 10 // limit
            log.info("%s: %d %% of %s MB", one.name, tenth * 10, f"{limit / 1e6:,.1f}")
    if file.tell() < limit:
        raise ConnectionError(f"the body ended at byte {file.tell():,} of {limit:,}")


def _lasting(one: Needed, error: Exception) -> None:
    """Raises Refusal for an answer that will be the same next time."""
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        if 300 <= error.code < 500 and error.code not in (408, 416, 429):
            raise Refusal(f"{one.url} answers {error.code} {error.reason}. Get {official.described(one)}") from None
    elif isinstance(error, OSError) and error.errno in DISK:
        raise error


def _beyond(error: Exception, have: int, tag: Path) -> bool:
    """Whether a server that refuses the range says so because all is there; if not, the next try starts anew."""
    if not isinstance(error, urllib.error.HTTPError) or error.code != 416:
        return False
    tag.unlink(missing_ok=True)
    return error.headers.get("Content-Range") == f"bytes */{have}"


def _verify(one: Needed, path: Path) -> None:
    """Raises Refusal where a finished file is not the official one. A temporary one is then removed: the next try starts anew."""
    size = _size(path)
    with path.open("rb") as file:
        md5 = hashlib.file_digest(file, "md5").hexdigest()
    if (one.bytes and size != one.bytes) or (one.md5 and md5 != one.md5):
        remedy = "Remove it and run again."
        if path.name != one.name:
            path.unlink()
            remedy = "It was thrown away; run again."
        raise Refusal(
            f"{path.with_name(one.name)} has {size:,} bytes and md5 {md5}, which is not the official file: "
            f"{official.described(one)}. {remedy}"
        )
    if not one.md5:
        log.warning("%s: no checksum is published for it, so only its length was checked", one.name)


def _size(path: Path) -> int:
    """0 where there is no file."""
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def main(arguments: Sequence[str]) -> None:
    """`<set> <folder>`. Raises Refusal."""
    if len(arguments) != 2 or arguments[0] not in SETS:
        raise Refusal(
            f"Say which set and where to: python -m stages.lib.ingestion.download <{'|'.join(SETS)}> <folder>"
        )
    needed, folder = SETS[arguments[0]], Path(arguments[1])
    if not all(one.url for one in needed):
        lines = "\n".join(f"  {official.described(one)}" for one in needed)
        raise Refusal(f"{arguments[0]} cannot be fetched by a program. Put these files into {folder}:\n{lines}")
    for one in needed:
        log.info("%s", official.described(one))
        fetch(one, folder)
    if arguments[0] == "tiny-imagenet":
        log.info("A zip is not read in place. Unpack it: python -m zipfile -e %s %s", folder / needed[0].name, folder)
    else:
        log.info("All there. Set `path` of this set in `sources` to %s; archives are read as they are.", folder)


if __name__ == "__main__":
    say()
    try:
        main(sys.argv[1:])
    except (Refusal, ConnectionError) as said:
        raise SystemExit(masked(str(said))) from None
