"""Which module understands which layout: the words of `sources.<set>.layout`."""

from collections.abc import Callable, Sequence

from stages.lib.data import folder_layout, tiny_imagenet_layout
from stages.lib.data.expansion import Reader
from stages.lib.data.layout import Layout
from stages.lib.data.listing import Entry

UNPACKED = ("folder", "tiny-imagenet")
"""Layouts of unpacked files; they are opened as an archive only where the whole source is one."""


def archived(layout: str, files: int) -> bool:
    """Whether archives among the source's files are opened."""
    return layout not in UNPACKED or files == 1


def readers(layout: str) -> Callable[[str], Reader | None]:
    """Name of a file -> the reader of such a container, where it is one and no tar."""
    del layout
    return lambda _: None


def texts(layout: str) -> tuple[str, ...]:
    """Endings of the files that say what the images are."""
    return {"tiny-imagenet": (".txt",)}.get(layout, ())


def read(layout: str, entries: Sequence[Entry], text_of: Callable[[Entry], bytes]) -> Layout:
    """What the files mean. Raises Refusal."""
    if layout == "folder":
        return folder_layout.read(entries)
    return tiny_imagenet_layout.read(entries, text_of)
