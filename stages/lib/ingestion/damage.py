"""What is wrong with a set's built shards: each file held against what the index says of it, every byte read."""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from stages.lib.core import files


class Wanted(NamedTuple):
    """What a file of the folder must be."""

    bytes: int
    sha256: str
    """Hex."""


def found(folder: Path, wanted: Mapping[str, Wanted]) -> dict[str, str]:
    """Name -> what is wrong with it, in a few words, for every file of `wanted` that is not what it must be; in its order."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # reading and hashing leave Python's lock
        told = pool.map(lambda name: _wrong(folder / name, wanted[name]), wanted)
        return {name: wrong for name, wrong in zip(wanted, told, strict=True) if wrong}


def strays(folder: Path, wanted: Mapping[str, Wanted]) -> list[Path]:
    """What lies in the folder and does not belong there."""
    return sorted(path for path in folder.glob("*") if path.name not in wanted) if folder.is_dir() else []


def _wrong(path: Path, wanted: Wanted) -> str:
    """Empty where nothing is."""
    try:
        size = path.stat().st_size
        if size != wanted.bytes:
            return f"{size:,} bytes, not {wanted.bytes:,}"
        return "" if files.sha256(path) == wanted.sha256 else "its sha256 is not the index's"
    except FileNotFoundError:
        return "it is missing"
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
