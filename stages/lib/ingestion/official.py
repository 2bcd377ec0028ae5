"""The files of a set as its publishers name them: what is needed, what of it is missing or has another size."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Needed(NamedTuple):
    """One official file. 0 or an empty text: not known, or (url) not to be had without a person."""

    name: str
    bytes: int
    md5: str
    """Hex digest, as the publishers or torchvision state it."""
    what: str
    """What it holds, in a few words."""
    url: str


def described(one: Needed) -> str:
    """`setid.mat (14,989 bytes, md5 a535...): the splits; from https://...`"""
    facts = [f"{one.bytes:,} bytes"] * bool(one.bytes) + [f"md5 {one.md5}"] * bool(one.md5)
    return (
        one.name + (f" ({', '.join(facts)})" if facts else "") + f": {one.what}" + (f"; from {one.url}" * bool(one.url))
    )


def missing(needed: Sequence[Needed], present: Mapping[str, int]) -> str:
    """A line for every needed file that is absent or has another size; empty where all is well.

    present: path -> bytes, as found. A file counts wherever it lies. One that was opened counts by the paths of its
    members, which begin with its own; its size is not looked at then.
    """
    sizes = _sizes({one.name for one in needed}, present)
    lines = [line for one in needed if (line := _line(one, sizes.get(one.name, -1)))]
    return "\n".join(lines)


def _sizes(names: set[str], present: Mapping[str, int]) -> dict[str, int]:
    """Name -> bytes of those among `names` that are there; 0 where only members of it are."""
    sizes: dict[str, int] = {}
    for path, size in present.items():
        *folders, last = path.split("/")
        if last in names:
            sizes[last] = size
        for folder in names.intersection(folders):
            sizes.setdefault(folder, 0)
    return sizes


def _line(one: Needed, size: int) -> str:
    """size: -1 for a file that is not there, 0 for one of unknown size."""
    if size < 0:
        return f"  not there: {described(one)}"
    if one.bytes and size and size != one.bytes:
        return f"  {size:,} bytes instead of {one.bytes:,}, so not whole or another file: {described(one)}"
    return ""
