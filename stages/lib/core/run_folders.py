"""Run folders, listed for people, and the old ones removed: `python -m stages.lib.core.run_folders list | prune`.

A folder that a running process holds (stages/lib/core/runs.py) is never touched, whatever its age. No stage imports this file, so
an edit here trains nothing again.
"""

import fcntl
import json
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from stages.lib.core import files, runs

REMOVED = ".removed"
"""Ending of a folder on its way out; one that was left over is removed by the next `prune`."""


@dataclass(frozen=True)
class Folder:
    """A run folder as it is now."""

    path: Path
    bytes: int
    changed: float
    """Seconds since the epoch: the last change of any file."""
    what: str
    """How far it came."""
    newest: bool
    """Of its stage."""

    @property
    def stage(self) -> str:
        """Stage, and item where it has one."""
        return self.path.parent.name


def folders(root: Path) -> list[Folder]:
    """Every run folder, by stage and newest first."""
    found = []
    for marker in root.glob("*/*/identity.json"):
        if marker.parent.name.endswith(REMOVED):
            continue
        stats = [stat for path in marker.parent.rglob("*") if (stat := _stat(path))]
        size, changed = sum(stat.st_size for stat in stats), max((stat.st_mtime for stat in stats), default=0.0)
        found.append((marker.parent, size, changed))
    found.sort(key=lambda one: (one[0].parent.name, -one[2]))
    seen: set[Path] = set()
    rows = []
    for path, size, changed in found:
        rows.append(Folder(path, size, changed, _what(path), path.parent not in seen))
        seen.add(path.parent)
    return rows


def _stat(path: Path) -> os.stat_result | None:
    """Of a file; None where it is a folder, or gone since it was listed: a run that goes on replaces its files."""
    try:
        return path.stat() if path.is_file() else None
    except OSError:
        return None


def _what(path: Path) -> str:
    """How far the run came, by its newest checkpoint, and of what set."""
    steps = [int(one.stem.removeprefix("step-")) for one in path.glob("checkpoints/step-*.pt")]
    try:
        inputs = [name for name in json.loads((path / "identity.json").read_text())["inputs"] if isinstance(name, str)]
    except (OSError, ValueError, KeyError, TypeError):  # gone, torn, or of another form
        inputs = []
    sets = [Path(name).stem for name in inputs if name.startswith("data/index/")]
    about = f"of {sets[0]}" if sets else ""
    return " ".join(
        part for part in (f"checkpoint after step {max(steps)}" if steps else "no checkpoint", about) if part
    )


def holder(path: Path) -> str:
    """Who holds a run folder now; empty: nobody."""
    try:
        with (path / "lease").open("r") as lease:
            try:
                fcntl.flock(lease, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return lease.read().strip() or "another process"
    except FileNotFoundError:
        pass
    return ""


def remove(path: Path) -> bool:
    """Remove a run folder, unless a process holds it. False: one does, or has taken it just now.

    Under the lease the folder gets another name. A run that starts meanwhile either has the lease, and this gives way; or finds no
    folder of its name, and makes a fresh one.
    """
    aside = path.with_name(f"{path.name}.{os.getpid()}{REMOVED}")
    try:
        with (path / "lease").open("a+") as lease:
            try:
                fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            if not runs.is_at(lease, path / "lease"):
                return False
            path.rename(aside)
    except FileNotFoundError:
        return False
    shutil.rmtree(aside)
    return True


def age(seconds: float) -> str:
    """How long ago, in the largest unit that fits."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} s ago"


def main(command: str = "list") -> None:
    """`list` prints every run folder; `prune` removes all but the newest of each stage, and says what it removed and kept."""
    if command not in ("list", "prune"):
        raise SystemExit(
            f"unknown command {command!r}; use `python -m stages.lib.core.run_folders list` or `... prune`"
        )
    root, freed, removed = files.root(), 0, 0
    if command == "prune":
        for left in root.glob(f"*/*{REMOVED}"):  # of a prune that was killed
            shutil.rmtree(left, ignore_errors=True)
    for one in folders(root):
        held = holder(one.path)
        state = f"in use by {held}" if held else "newest of its stage" if one.newest else "older"
        if command == "prune" and not one.newest and not held:
            gone = remove(one.path)
            state = "removed" if gone else "kept: a run has taken it just now"
            removed, freed = removed + gone, freed + one.bytes * gone
        _say(
            f"{one.stage:24s} {one.path.name} {one.bytes / 2**20:9.1f} MiB  {age(time.time() - one.changed):>10s}  "
            f"{one.what}; {state}"
        )
    if command == "prune":
        _say(f"removed {removed} run folder(s) from {root}, {freed / 2**20:.1f} MiB")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
