"""A planted fault, and the bench on which it is tried: clean data of one kind, looked at by the real stages."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest


class Bench:
    """Clean data in a folder of its own, which is the current one, and what looks at it in the pipeline."""

    kind: ClassVar[str]
    """What is spoilt, for the table."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.patch = folder, patch
        self.where = ""
        """The stage that is looking now."""
        self.rejects = ""
        """The one raw image that must be rejected; empty: none."""
        folder.mkdir(parents=True, exist_ok=True)
        for variable in ("TUTELAGE_RUNS", "TUTELAGE_RAW", "DVC_ROOT"):
            patch.delenv(variable, raising=False)
        patch.chdir(folder)
        self.lay()

    def lay(self) -> None:
        """Put the clean data there."""
        raise NotImplementedError

    def look(self) -> None:
        """Run the stages, as the pipeline does. Raises Refusal where one stops it."""
        raise NotImplementedError

    def inputs(self) -> dict[str, bytes]:
        """What the stages read and must leave as it is."""
        raise NotImplementedError

    def kept(self) -> str:
        """What became of the good data beside the bad, in a few words. AssertionError where some of it is lost."""
        left = sorted(str(path) for path in self.folder.rglob("*.tmp"))
        assert not left, f"left behind: {left}"
        return "untouched"


@dataclass(frozen=True)
class Fault:
    """One fault: how it is planted, who must find it, and what must be said."""

    name: str
    bench: type[Bench]
    plant: Callable[[Any], object]
    """Spoils the bench's clean data."""
    where: str
    """The stage or gate that must find it."""
    says: tuple[str, ...]
    """Pieces of the message: what is wrong, the thing it is wrong with, and what to do."""
    rejects: str = ""
    """Of a raw image: its name in the list of rejected ones; all others must come through."""

    def __str__(self) -> str:
        return f"{self.bench.kind}: {self.name}"


def files(*folders: Path) -> dict[str, bytes]:
    """Every byte under some folders."""
    return {
        str(path): path.read_bytes()
        for folder in folders
        for path in ([folder] if folder.is_file() else folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def flip(path: Path, place: int) -> None:
    """One bit of a file; a negative place counts from its end."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def cut(path: Path, length: int) -> None:
    """Keep the first bytes; a negative length takes so many off the end."""
    path.write_bytes(path.read_bytes()[:length])
