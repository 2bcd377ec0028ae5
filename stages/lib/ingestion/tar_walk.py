"""Walks the members of a plain tar, header by header, forwards; payloads are read or skipped by the caller.

Refused by name, since each could smuggle in or lose images: compressed tars, links, devices, sparse members, absolute
paths and `..`, a damaged header, data after the end mark.
"""

import logging
import tarfile
from collections.abc import Iterator
from typing import BinaryIO

from stages.lib.core.outcome import Refusal
from stages.lib.core.tar_headers import Headers

log = logging.getLogger(__name__)
MAGIC = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"(\xb5": "zstd", b"PK": "zip"}
CHUNK = 1 << 20


def walk(where: str, file: BinaryIO) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """(name without leading `./`, header) of every file and folder; payload at header.offset_data of `file`.

    where: names the tar in messages. file: stands at 0 and can seek; between two members the caller may move it forwards.
    Raises Refusal.
    """
    for info in _headers(where, file):
        name = _name(where, info)
        if name:
            yield name, info


def _headers(where: str, file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Every header, and proof that the tar was read to its end: tarfile takes a damaged header for the end mark."""
    start = file.read(2)
    file.seek(0)
    headers = Headers(file)
    try:
        yield from headers
    except tarfile.TarError as error:
        raise _unreadable(where, start, str(error)) from None
    file.seek(headers.end)
    mark = file.read(512)
    if not mark:
        log.warning("%s has no end mark; if it was downloaded, check that it is whole", where)
    elif mark.count(0) < len(mark):
        raise Refusal(f"{where}: the header at byte {headers.end:,} is damaged. Get the tar again.")
    while rest := file.read(CHUNK):
        if rest.count(0) < len(rest):
            raise Refusal(
                f"{where} goes on after its end mark at byte {headers.end:,}: tars were joined with `cat`, or it is damaged. "
                "Join them with `tar --concatenate`, or get the tar again."
            )


def _unreadable(where: str, start: bytes, reason: str) -> Refusal:
    kind = MAGIC.get(start)
    if kind:
        return Refusal(
            f"{where} is {kind}-compressed, though its name says it is a plain tar. Rename it (.tar.gz, .tgz), or unpack it."
        )
    return Refusal(
        f"{where} is no whole tar ({reason}). Get it again; `sources.<set>.path` is a folder, a plain .tar or a .tar.gz."
    )


def _name(where: str, info: tarfile.TarInfo) -> str:
    """The member's path without leading `./`; empty for the root itself. Raises Refusal for what must not be there."""
    here = f"{where} holds {info.name!r}, "
    parts = [part for part in info.name.split("/") if part not in ("", ".")]
    if info.name.startswith("/") or ".." in parts:
        raise Refusal(f"{here}which leads out of the tar. Write the tar anew with relative paths.")
    if info.issym() or info.islnk():
        raise Refusal(
            f"{here}a link to {info.linkname!r}. Write the tar anew with `tar --dereference --hard-dereference`."
        )
    if info.issparse() or not (info.isreg() or info.isdir()):
        raise Refusal(f"{here}which is no plain file (tar type {info.type!r}). Write the tar anew without it.")
    try:
        info.name.encode()
    except UnicodeEncodeError:
        raise Refusal(f"{here}a name that is not UTF-8. Write the tar anew.") from None
    return "/".join(parts)
