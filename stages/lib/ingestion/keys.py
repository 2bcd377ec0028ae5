"""Names for images: a webdataset key from a path, unique in its set and steady when other images come or go."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

SKIPPED = re.compile(r"__[^/]*__($|/)")
"""webdataset takes tar members that begin like this for metadata and passes over them."""


def keys(paths: Sequence[str]) -> list[str]:
    """Path -> key, in the order given: no suffix, dots are `_`. Paths are distinct and sorted.

    Where several paths give one key, all of them get their suffix behind it (`cat-jpg`, `cat-png`), then a number (`cat-jpg-2`).
    """
    plain = [_plain(path) for path in paths]
    count = Counter(plain)
    taken = {key for key, times in count.items() if times == 1}
    return [
        key if count[key] == 1 else _free(f"{key}-{_suffix(path)}", taken)
        for key, path in zip(plain, paths, strict=True)
    ]


def _plain(path: str) -> str:
    where = PurePosixPath(path)
    key = str(where.parent / (where.stem or where.name)).replace(".", "_")
    return f"x{key}" if SKIPPED.match(key) else key


def _suffix(path: str) -> str:
    return PurePosixPath(path).suffix.removeprefix(".").lower() or "none"


def _free(key: str, taken: set[str]) -> str:
    number, free = 1, key
    while free in taken:
        number += 1
        free = f"{key}-{number}"
    taken.add(free)
    return free
