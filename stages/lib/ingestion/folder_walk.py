"""Walks a folder of up to millions of files and tells by names, sizes and times which sub-folders differ from last time.

Nothing is read here. A sub-folder's fingerprint covers its file names, sizes and mtimes, so a no-op scan of 1.28
million files compares a thousand fingerprints; stat itself, 2 microseconds a file, is what remains. Hidden files and
what file managers leave behind are ignored. A link to a file counts as the file, wherever it leads (only content is
recorded). A link to a folder is refused: it may loop, or count images twice.
"""

import functools
import hashlib
import multiprocessing
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from stages.lib.core.outcome import Refusal

CLUTTER = {"Thumbs.db", "desktop.ini", "__MACOSX"}
POOL_FROM = 64  # folders on one level: fewer are walked faster than processes start


class Folder(NamedTuple):
    """One folder as found; `names` and `facts` only where the fingerprint is not the one that was known."""

    path: str
    """POSIX, relative to the root; empty for the root itself."""
    fingerprint: str
    folders: list[str]
    """Paths of its sub-folders."""
    empty: bool
    ignored: int
    names: list[str]
    facts: np.ndarray
    """i64[n, 2]: bytes, mtime in ns."""


def hidden(name: str) -> bool:
    """Whether a file or folder of this name is ignored."""
    return name.startswith(".") or name in CLUTTER


def walk(root: str, known: Mapping[str, str], processes: int) -> Iterator[Folder]:
    """Every folder under `root`, level by level. known: path -> fingerprint. Raises Refusal naming what cannot be listed."""
    level = [""]
    while level:
        below: list[str] = []
        for folder in _look_all(root, [(path, known.get(path, "")) for path in level], processes):
            below += folder.folders
            yield folder
        level = sorted(below)


def _look_all(root: str, tasks: list[tuple[str, str]], processes: int) -> Iterable[Folder]:
    look = functools.partial(_look, root)
    if processes < 2 or len(tasks) < POOL_FROM:
        return map(look, tasks)
    # Fork: no thread runs yet, and a fresh interpreter would cost more than its half of the work.
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        return pool.map(look, tasks, chunksize=16)


def _look(root: str, task: tuple[str, str]) -> Folder:
    path, known = task
    place = os.path.join(root, path) if path else root
    try:
        return _listed(place, path, known)
    except PermissionError as error:
        raise Refusal(f"{place} may not be read by this user ({error}); change its permissions.") from None
    except FileNotFoundError as error:
        raise Refusal(
            f"{place} changed while it was scanned ({error}). Let the copying finish, then run again."
        ) from None
    except UnicodeEncodeError as error:
        name = (
            error.object[: error.end].rpartition("\0")[2] + error.object[error.end :].partition("\0")[0]
        )  # of names put together
        raise Refusal(f"{place} holds a file name that is not UTF-8: {os.fsencode(name)!r}. Rename it.") from None


def _listed(place: str, path: str, known: str) -> Folder:
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        names: list[str] = []
        folders: list[str] = []
        ignored = 0
        with os.scandir(descriptor) as entries:
            for entry in entries:
                name = entry.name
                if name[0] == "." or name in CLUTTER:
                    ignored += 1
                elif entry.is_file(follow_symlinks=False):
                    names.append(name)
                elif entry.is_dir(follow_symlinks=False):
                    folders.append(f"{path}/{name}" if path else name)
                else:
                    names.append(_file_behind(entry, place))
        names.sort()
        facts = _facts(names, descriptor)
    finally:
        os.close(descriptor)
    fingerprint = hashlib.blake2b("\0".join(names).encode() + b"\0\0" + facts.tobytes(), digest_size=16).hexdigest()
    empty = not names and not folders
    if fingerprint == known:
        names, facts = [], facts[:0]
    return Folder(path, fingerprint, folders, empty, ignored, names, facts)


def _facts(names: list[str], descriptor: int) -> np.ndarray:
    """i64[n, 2]; relative to the open folder, which spares the kernel the path and is the hot loop of every scan."""
    status = os.stat
    found = [status(name, dir_fd=descriptor) for name in names]
    return np.array([(one.st_size, one.st_mtime_ns) for one in found], np.int64).reshape(-1, 2)


def _file_behind(entry: "os.DirEntry[str]", place: str) -> str:
    """The name of a link that leads to a file; anything else is refused."""
    where = os.path.join(place, entry.name)
    if not entry.is_symlink():
        raise Refusal(f"{where} is no file (a device, pipe or socket). Remove it from the image folder.")
    if not os.path.exists(where):
        raise Refusal(
            f"{where} is a link to {os.readlink(where)!r}, which does not exist. Remove it, or restore its target."
        )
    if not stat.S_ISREG(os.stat(where).st_mode):
        raise Refusal(
            f"{where} is a link to a folder, which could loop or count images twice. Put the folder itself there; "
            "links to files are followed."
        )
    return entry.name
