"""What the last scan of a source found, kept in the run root, so that only what changed is read again.

<run root>/scan/<set>/ holds the listing exactly as it was published, each row's mtime beside it, and state.json,
which names both by their sha256 and is replaced last: a scan that is killed leaves the old state or the new.
"""

import contextlib
import dataclasses
import fcntl
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from stages.lib.core import files
from stages.lib.ingestion import listing

VERSION = 1  # raise it when the same source would be listed differently


@dataclass(frozen=True)
class State:
    """state.json: what was scanned, and by what a change of it is seen."""

    path: str
    """As params.yaml has it."""
    place: str
    """Where that was on this machine."""
    listing: str = ""
    """File name; the stem is the sha256 of the content. Likewise `mtimes`."""
    mtimes: str = ""
    """i64, one for each row of the listing; -1: read again next time. Empty for a tar."""
    folders: dict[str, str] = field(default_factory=dict)
    """Path -> fingerprint; an empty one makes the next scan look at its rows."""
    tar: str = ""
    """Size and mtime of a tar; empty: read again next time."""
    ignored: int = 0
    version: int = VERSION


class StatCache:
    """The cache of one set."""

    def __init__(self, set_name: str) -> None:
        self.folder = files.root() / "scan" / set_name

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """One scan of a set at a time; others wait."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lease").open("w") as lease:
            fcntl.flock(lease, fcntl.LOCK_EX)
            yield

    def state(self, path: str) -> State | None:
        """The last scan of this configured path, if its files are whole."""
        try:
            state = State(**json.loads((self.folder / "state.json").read_text()))
        except (OSError, ValueError, TypeError):
            return None
        fits = state.version == VERSION and state.path == path
        return (
            state if fits and self._whole(state.listing) and (not state.mtimes or self._whole(state.mtimes)) else None
        )

    def listing(self, state: State) -> Path:
        """The listing, byte for byte as it was published."""
        return self.folder / state.listing

    def mtimes(self, state: State) -> np.ndarray:
        """i64[rows]."""
        return np.load(self.folder / state.mtimes)

    def store(self, state: State, table: pa.Table, mtimes: np.ndarray | None) -> State:
        """Replace the cache; `table` is sorted by member."""
        temporary = self.folder / "writing"
        listing.write(temporary, table)
        kept = self._keep(temporary, ".parquet")
        times = ""
        if mtimes is not None:
            with temporary.open("wb") as file:
                np.save(file, mtimes)
            times = self._keep(temporary, ".npy")
        state = dataclasses.replace(state, listing=kept, mtimes=times)
        self.point_to(state)
        for old in [*self.folder.glob("*.parquet"), *self.folder.glob("*.npy")]:
            if old.name not in (kept, times):
                old.unlink()
        return state

    def point_to(self, state: State) -> None:
        """Replace state.json alone."""
        with files.replace(self.folder / "state.json") as temporary:
            temporary.write_text(json.dumps(dataclasses.asdict(state)))

    def _keep(self, temporary: Path, suffix: str) -> str:
        name = files.sha256(temporary) + suffix
        temporary.rename(self.folder / name)
        return name

    def _whole(self, name: str) -> bool:
        path = self.folder / name
        return path.is_file() and files.sha256(path) == path.stem
