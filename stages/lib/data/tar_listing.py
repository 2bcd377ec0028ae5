"""Lists and hashes the members of a plain tar in one sequential pass; nothing is unpacked.

Refused by name, since each could smuggle in or lose images: compressed tars, links, devices, sparse members, absolute
paths and `..`, a name that occurs twice, a damaged header, data after the end mark.
"""

import hashlib
import logging
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from stages.lib.core.outcome import Refusal
from stages.lib.data.folder_walk import hidden
from stages.lib.data.listing import Entry

log = logging.getLogger(__name__)
MAGIC = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"(\xb5": "zstd", b"PK": "zip"}
CHUNK = 1 << 20


def entries(path: Path) -> tuple[list[Entry], int]:
    """(a row per file and per empty folder, number of ignored hidden members), in the tar's order. Raises Refusal."""
    found: dict[str, Entry] = {}
    folders: list[str] = []
    ignored = 0
    with path.open("rb", buffering=CHUNK) as file:
        for info in _members(path, file):
            name = _name(path, info)
            if not name:
                continue
            if any(hidden(part) for part in name.split("/")):
                ignored += 1
            elif info.isdir():
                folders.append(name + "/")
            elif name in found:
                raise Refusal(
                    f"{path} holds {name!r} twice, and it is not clear which counts. Write the tar anew from a folder."
                )
            else:
                found[name] = Entry(name, info.size, _sha256(file, info), info.offset_data)
    full = {name.rpartition("/")[0] for name in found} | {name[:-1].rpartition("/")[0] for name in folders}
    rows = [Entry(name, 0, "", -1) for name in dict.fromkeys(folders) if name[:-1] not in full]
    return [*found.values(), *rows], ignored


def _members(path: Path, file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Every header, and proof that the tar was read to its end: tarfile takes a damaged header for the end mark."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (info := tar.next()) is not None:
                yield info
                tar.members = []  # type: ignore[attr-defined]  # else a million of them pile up
            end = tar.offset
    except tarfile.TarError as error:
        raise _unreadable(path, str(error)) from None
    file.seek(end)
    mark = file.read(512)
    if not mark:
        log.warning("%s has no end mark; if it was downloaded, check that it is whole", path)
    elif mark.count(0) < len(mark):
        raise Refusal(f"{path}: the header at byte {end:,} is damaged. Get the tar again.")
    while rest := file.read(CHUNK):
        if rest.count(0) < len(rest):
            raise Refusal(
                f"{path} goes on after its end mark at byte {end:,}: tars were joined with `cat`, or it is damaged. "
                "Join them with `tar --concatenate`, or get the tar again."
            )


def _unreadable(path: Path, reason: str) -> Refusal:
    with path.open("rb") as file:
        kind = MAGIC.get(file.read(2))
    if kind:
        return Refusal(
            f"{path} is {kind}-compressed, so images in it have no offset. Unpack it to a folder or to a plain .tar."
        )
    return Refusal(
        f"{path} is no whole tar ({reason}). Get it again; `sources.<set>.path` is a folder or a plain .tar."
    )


def _name(path: Path, info: tarfile.TarInfo) -> str:
    """The member's path without leading `./`; empty for the root itself. Raises Refusal for what must not be there."""
    where = f"{path} holds {info.name!r}, "
    parts = [part for part in info.name.split("/") if part not in ("", ".")]
    if info.name.startswith("/") or ".." in parts:
        raise Refusal(f"{where}which leads out of the tar. Write the tar anew with relative paths.")
    if info.issym() or info.islnk():
        raise Refusal(
            f"{where}a link to {info.linkname!r}. Write the tar anew with `tar --dereference --hard-dereference`."
        )
    if info.issparse() or not (info.isreg() or info.isdir()):
        raise Refusal(f"{where}which is no plain file (tar type {info.type!r}). Write the tar anew without it.")
    try:
        info.name.encode()
    except UnicodeEncodeError:
        raise Refusal(f"{where}a name that is not UTF-8. Write the tar anew.") from None
    return "/".join(parts)


def _sha256(file: BinaryIO, info: tarfile.TarInfo) -> str:
    digest, left = hashlib.sha256(), info.size
    file.seek(info.offset_data)
    while left and (chunk := file.read(min(left, CHUNK))):
        digest.update(chunk)
        left -= len(chunk)
    if left:
        raise Refusal(f"{file.name} is cut off inside {info.name!r}. Get the tar again.")
    return digest.hexdigest()
