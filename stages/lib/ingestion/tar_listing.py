"""Lists and hashes the members of a plain tar in one sequential pass; nothing is unpacked."""

import hashlib
import tarfile
from pathlib import Path
from typing import BinaryIO

from stages.lib.core.outcome import Refusal
from stages.lib.ingestion.folder_walk import hidden
from stages.lib.ingestion.listing import Entry
from stages.lib.ingestion.tar_walk import CHUNK, walk


def entries(path: Path) -> tuple[list[Entry], int]:
    """(a row per file and per empty folder, number of ignored hidden members), in the tar's order. Raises Refusal.

    A name that occurs twice is refused beside what `walk` refuses: it could lose an image.
    """
    found: dict[str, Entry] = {}
    folders: list[str] = []
    ignored = 0
    with path.open("rb", buffering=CHUNK) as file:
        for name, info in walk(str(path), file):
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


def _sha256(file: BinaryIO, info: tarfile.TarInfo) -> str:
    digest, left = hashlib.sha256(), info.size
    file.seek(info.offset_data)
    while left and (chunk := file.read(min(left, CHUNK))):
        digest.update(chunk)
        left -= len(chunk)
    if left:
        raise Refusal(f"{file.name} is cut off inside {info.name!r}. Get the tar again.")
    return digest.hexdigest()
