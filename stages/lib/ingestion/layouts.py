"""Which module understands which layout: the words of `sources.<set>.layout`."""

from collections.abc import Callable, Mapping, Sequence

from stages.lib.ingestion import (
    cars_layout,
    cifar_batches,
    cifar_layout,
    flowers_layout,
    folder_layout,
    hub_layout,
    hub_parquet,
    imagenet_layout,
    inaturalist_layout,
    tiny_imagenet_layout,
    webdataset_layout,
)
from stages.lib.ingestion.expansion import Reader
from stages.lib.ingestion.layout import Layout
from stages.lib.ingestion.listing import Entry
from stages.lib.ingestion.official import Needed

UNPACKED = ("folder", "tiny-imagenet")
"""Layouts of unpacked files; they are opened as an archive only where the whole source is one."""

MODULES = {
    "cifar": cifar_layout,
    "flowers-102": flowers_layout,
    "hub": hub_layout,
    "imagenet": imagenet_layout,
    "inaturalist": inaturalist_layout,
    "stanford-cars": cars_layout,
    "tiny-imagenet": tiny_imagenet_layout,
    "webdataset": webdataset_layout,
}

OFFICIAL: Mapping[str, tuple[tuple[Needed, ...], ...]] = {
    "cifar": (cifar_layout.CIFAR10, cifar_layout.CIFAR100),
    "flowers-102": (flowers_layout.NEEDED,),
    "imagenet": (imagenet_layout.NEEDED,),
    "inaturalist": (inaturalist_layout.NEEDED_2018, inaturalist_layout.NEEDED_2019),
    "stanford-cars": (cars_layout.NEEDED,),
}
"""Layout -> the sets it reads, each as its published files."""


def archived(layout: str, files: int) -> bool:
    """Whether archives among the source's files are opened."""
    return layout not in UNPACKED or files == 1


def readers(layout: str) -> Callable[[str], Reader | None]:
    """Name of a file -> the reader of such a container, where it is one and no tar."""

    def reader_of(name: str) -> Reader | None:
        if layout == "cifar" and cifar_batches.opens(name):
            return cifar_batches.inner
        if layout == "hub" and hub_parquet.opens(name):
            return hub_parquet.inner
        return None

    return reader_of


def texts(layout: str) -> tuple[str, ...]:
    """Endings, in lower case, of the files that say what the images are."""
    return () if layout == "folder" else MODULES[layout].TEXTS


def read(layout: str, entries: Sequence[Entry], text_of: Callable[[Entry], bytes]) -> Layout:
    """What the files mean. Raises Refusal."""
    return folder_layout.read(entries) if layout == "folder" else MODULES[layout].read(entries, text_of)
