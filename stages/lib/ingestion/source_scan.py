"""Brings the cached listing of a source up to date: what changed by size or mtime is read, and nothing else."""

import dataclasses
import hashlib
import logging
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stages.lib.core import files, objects
from stages.lib.core.outcome import Refusal
from stages.lib.ingestion import folder_walk, listing, tar_listing
from stages.lib.ingestion.folder_walk import Folder, hidden
from stages.lib.ingestion.listing import Entry
from stages.lib.ingestion.raw import Absent, Place
from stages.lib.ingestion.stat_cache import StatCache, State

log = logging.getLogger(__name__)
FRESH_NS = 2_000_000_000  # a file this young could change again within one tick of a coarse clock (FAT: 2 s)
CHUNK = 1 << 20
TOGETHER = 256  # files a thread reads before it asks for more


class Row(NamedTuple):
    """An entry and the time of the file it was read from."""

    entry: Entry
    mtime: int


def scan(cache: StatCache, path: str, place: Place, processes: int) -> State:
    """The state after a look at `place`. path: as params.yaml has it. Raises Refusal."""
    if place.remote:
        return _objects(cache, State(path=path, place=place.uri))
    old = cache.state(path)
    now = State(path=path, place=str(place.path.resolve()))
    if old and old.place != now.place:
        old = None
    return _folder(cache, old, now, processes) if place.path.is_dir() else _file(cache, old, now, place.is_tar)


def _objects(cache: StatCache, now: State) -> State:
    """Objects are told apart by their etags, which change with the content; none is read here."""
    prefix, _, only = now.place.rpartition("/") if Place(now.place).is_one_object else (now.place, "", "")
    try:
        listed = [one for one in objects.listing(prefix) if not only or one.name == only]
    except Refusal as refusal:
        raise Absent(str(refusal)) from None
    if not listed:
        raise Absent(f"there is no object {now.place}.")
    found = [Entry(one.name, one.bytes, f"etag:{one.etag}", -1) for one in listed]
    seen = [entry for entry in found if not any(hidden(part) for part in entry.member.split("/"))]
    return cache.store(dataclasses.replace(now, ignored=len(found) - len(seen)), listing.table_of(seen), None)


def _file(cache: StatCache, old: State | None, now: State, is_tar: bool) -> State:
    """One file: a plain tar is listed by its members, any other as it is."""
    status = os.stat(now.place)
    stamp = f"{status.st_size} bytes, {status.st_mtime_ns} ns"
    if old and old.tar == stamp:
        return old
    log.info("reading %s (%.2f GB) once, front to back", now.place, status.st_size / 1e9)
    young = status.st_mtime_ns > time.time_ns() - FRESH_NS
    path = Path(now.place)
    entries, ignored = tar_listing.entries(path) if is_tar else ([_whole(path)], 0)
    now = dataclasses.replace(now, tar="" if young else stamp, ignored=ignored)
    return cache.store(now, listing.table_of(entries), None)


def _whole(path: Path) -> Entry:
    return Entry(path.name, path.stat().st_size, files.sha256(path), -1)


def _folder(cache: StatCache, old: State | None, now: State, processes: int) -> State:
    young = time.time_ns() - FRESH_NS
    known = old.folders if old else {}
    found = list(folder_walk.walk(now.place, known, processes))
    prints, ignored = {one.path: one.fingerprint for one in found}, sum(one.ignored for one in found)
    if old and old.folders == prints:
        if old.ignored != ignored:
            cache.point_to(old := dataclasses.replace(old, ignored=ignored))
        return old
    rows = _rows(found, known, _before(cache, old) if old else {}, now.place)
    again = {row.entry.member.rpartition("/")[0] for row in rows if row.mtime > young}
    now = dataclasses.replace(now, folders={**prints, **dict.fromkeys(again, "")}, ignored=ignored)
    mtimes = np.array([-1 if row.mtime > young else row.mtime for row in rows], np.int64)
    return cache.store(now, listing.table_of(row.entry for row in rows), mtimes)


def _before(cache: StatCache, old: State) -> dict[str, dict[str, Row]]:
    """Folder -> file name -> its row, as the last scan found them."""
    rows: dict[str, dict[str, Row]] = {}
    for entry, mtime in zip(listing.read(cache.listing(old)), cache.mtimes(old).tolist(), strict=True):
        if not entry.is_folder:
            folder, _, name = entry.member.rpartition("/")
            rows.setdefault(folder, {})[name] = Row(entry, mtime)
    return rows


def _rows(found: list[Folder], known: dict[str, str], before: dict[str, dict[str, Row]], place: str) -> list[Row]:
    """Every row of the new listing, by member; unchanged ones are taken over."""
    rows: list[Row] = []
    unread: list[tuple[str, int, int]] = []
    for folder in found:
        last = before.get(folder.path, {})
        if known.get(folder.path) == folder.fingerprint:
            rows += last.values()
        for name, (size, mtime) in zip(folder.names, folder.facts.tolist(), strict=True):
            row = last.get(name)
            if row and (row.entry.bytes, row.mtime) == (size, mtime):
                rows.append(row)
            else:
                unread.append((f"{folder.path}/{name}" if folder.path else name, size, mtime))
        if folder.empty and folder.path:
            rows.append(Row(Entry(f"{folder.path}/", 0, "", -1), 0))
    log.info("reading %d new or changed files (%.2f GB)", len(unread), sum(size for _, size, _ in unread) / 1e9)
    return sorted([*rows, *_hashed(place, unread)])


def _hashed(place: str, unread: list[tuple[str, int, int]]) -> Iterable[Row]:
    """Rows of (member, bytes, mtime). Threads: reading and sha256 both leave the interpreter to others."""
    parts = [unread[start : start + TOGETHER] for start in range(0, len(unread), TOGETHER)]
    with ThreadPoolExecutor() as pool:
        for part in pool.map(lambda part: [_read(place, *file) for file in part], parts):
            yield from part


def _read(place: str, member: str, size: int, mtime: int) -> Row:
    try:
        with open(os.path.join(place, member), "rb", buffering=0) as file:
            digest, left = hashlib.sha256(), size
            while chunk := file.read(min(left, CHUNK) + 1):
                digest.update(chunk)
                left -= len(chunk)
                if left < 0:
                    break
    except (FileNotFoundError, PermissionError) as error:
        raise Refusal(
            f"{member} in {place} cannot be read: {error.strerror}. Remove it or change its permissions."
        ) from None
    if left:
        raise Refusal(f"{member} in {place} changed while it was read. Let the copying finish, then run again.")
    return Row(Entry(member, size, digest.hexdigest(), -1), mtime)
