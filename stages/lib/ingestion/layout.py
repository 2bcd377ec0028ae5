"""What every layout says about a source: which files are images, of which class and split."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from stages.lib.ingestion.listing import Entry

SPLITS = {"train": "train", "val": "val", "validation": "val", "test": "test"}
"""Folder name, in lower case -> split."""


class Image(NamedTuple):
    """A file that should be an image."""

    path: str
    """Its member path without a wrapping folder: the key is made of it."""
    split: str
    """train, val or test; empty: the source has no splits."""
    label: int
    entry: Entry


@dataclass(frozen=True)
class Layout:
    """A source, understood."""

    classes: tuple[str, ...]
    """Index = label."""
    images: list[Image]
    rejected: list[tuple[str, str]] = field(default_factory=list)
    """(member, reason)"""
    skipped: list[str] = field(default_factory=list)
    """Sentences: what else lies in the source and is not used."""


def tops(entries: Sequence[Entry]) -> set[str]:
    """First components of paths that have a second one: the folders at the top."""
    return {entry.member.partition("/")[0] for entry in entries if "/" in entry.member}


def unwrapped(entries: Sequence[Entry], top: str) -> list[tuple[str, Entry]]:
    """(path inside folder `top`, entry); an empty `top` leaves paths as they are."""
    start = f"{top}/" if top else ""
    return [(entry.member.removeprefix(start), entry) for entry in entries if entry.member.startswith(start)]


def some(names: Sequence[str], most: int = 5) -> str:
    """`a, b, c and 7 more`."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
