"""Where files lie and how one is written: whole or not at all."""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


def _under(variable: str, folder: str) -> Path:
    """$variable, else the folder under the repository DVC runs for (temporary experiments run elsewhere), else under here."""
    if variable in os.environ:
        return Path(os.environ[variable])
    return Path(os.environ.get("DVC_ROOT", ".")) / "data" / folder


def root() -> Path:
    """Folder of all run folders: $TUTELAGE_RUNS, else $DVC_ROOT/data/runs, else data/runs."""
    return _under("TUTELAGE_RUNS", "runs")


def raw_root() -> Path:
    """Folder that relative source paths start at: $TUTELAGE_RAW, else $DVC_ROOT/data/raw, else data/raw."""
    return _under("TUTELAGE_RAW", "raw")


@contextlib.contextmanager
def replace(path: Path, flush: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it and rename it over `path`, so a crash leaves old or new.

    flush: False where whoever reads the file compares its sha256: after a power cut it may then be torn.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        if flush:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
        if flush:
            flush_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside `folder`; on success it takes its place, otherwise nothing is left of it.

    The files in it must have been flushed, as `replace` does. Killed between the two renames, the old folder lies beside as
    .<name>.old, and the next call puts it back before it begins.
    """
    fresh, old = (folder.with_name(f".{folder.name}.{end}") for end in ("tmp", "old"))
    if old.exists() and not folder.exists():
        old.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        yield fresh
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
        flush_folder(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def flush_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """Hex digest of a file, or of a folder's sorted relative names and file digests."""
    if path.is_dir():
        lines = [f"{p.relative_to(path).as_posix()} {sha256(p)}" for p in sorted(path.rglob("*")) if p.is_file()]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
