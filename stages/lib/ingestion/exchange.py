"""Puts a file in the place of a damaged one that may be linked to an object of DVC's cache, without writing through the link.

A hard or symbolic link shares the damage with the cache: there the object is replaced, whole, and linked again. Nothing is ever
opened for writing where something else may look at it.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from stages.lib.core import files
from stages.lib.ingestion import dvc_cache
from stages.lib.ingestion.damage import Wanted

READ_ONLY = 0o444  # as DVC protects what it shares by links


def put(good: Path, target: Path, wanted: Wanted) -> list[Path]:
    """Let `target` be `good`, as it was before: a file of its own or a link into a cache. Returns the objects that were mended.

    good: a file with the content of `wanted`, on the target's disk or another; it is left where it is.
    """
    mended = []
    kind, objects = _kind(target), list(_objects(dvc_cache.md5(good)))
    for one in objects:
        if not _is(one, wanted):
            _copied(good, one)
            one.chmod(READ_ONLY)
            mended.append(one)
    _placed(good, target, kind, objects[0] if objects else None)
    return mended


def _kind(target: Path) -> str:
    """How a file hangs together with the cache: `symbolic`, `hard` or `own`; a missing one as its neighbours do."""
    for one in (target, *sorted(target.parent.glob("*"))):
        if one.is_symlink():
            return "symbolic"
        if one.is_file():
            return "hard" if one.stat().st_nlink > 1 else "own"
    return "own"


def _objects(md5: str) -> Iterator[Path]:
    """The objects of this content's name in DVC's caches, whatever they hold."""
    for cache in dvc_cache.folders():
        if (one := dvc_cache.place(cache, md5)).is_file():
            yield one.resolve()


def _is(path: Path, wanted: Wanted) -> bool:
    return path.stat().st_size == wanted.bytes and files.sha256(path) == wanted.sha256


def _copied(good: Path, target: Path) -> None:
    """A copy of its own, whole or not at all."""
    with files.replace(target) as temporary:
        shutil.copyfile(good, temporary)


def _placed(good: Path, target: Path, kind: str, kept: Path | None) -> None:
    """Rename something new over `target`: a link to the cache's object where it was one, else a copy."""
    if kept is None or kind == "own":
        _copied(good, target)
        return
    with files.replace(target, flush=False) as temporary:
        if kind == "symbolic":
            temporary.symlink_to(kept)
            return
        try:
            os.link(kept, temporary)
        except OSError:  # the cache is on another disk
            shutil.copyfile(good, temporary)
