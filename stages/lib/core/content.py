"""Files that came from elsewhere, kept under <run root>/fetched by the sha256 that was named in advance."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from stages.lib.core import files
from stages.lib.core.outcome import Refusal
from stages.lib.params.credentials import masked


def folder() -> Path:
    """Where they are kept."""
    return files.root() / "fetched"


def find(sha256: str) -> Path | None:
    """The kept file whose digest starts with these hex digits, hashed again; one that was damaged since is removed."""
    for path in sorted(folder().glob(f"{sha256}*")):
        if path.suffix or not path.is_file():
            continue
        if files.sha256(path) == path.name:
            return path
        path.unlink()
    return None


@contextlib.contextmanager
def arriving(sha256: str) -> Iterator[Path]:
    """The place of a file that is on its way, for one process at a time; a killed one leaves it to be gone on with."""
    folder().mkdir(parents=True, exist_ok=True)
    part = folder() / f"{sha256}.part"
    with part.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield part


def keep(part: Path, sha256: str, source: str) -> Path:
    """Give a file that arrived its name. Raises Refusal, and removes it, where it is another file than was named."""
    found = files.sha256(part)
    if not found.startswith(sha256):
        part.unlink()
        raise Refusal(
            f"{masked(source)} has sha256 {found}, but {sha256} was named. It is another file or a damaged one: fetch it again, or "
            "write its sha256 if you trust it."
        )
    kept = folder() / found
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(kept)
    files.flush_folder(folder())
    return kept
