"""The files of a source, and what ingestion knows of each so far."""

from collections.abc import Iterator, Sequence
from functools import partial

from stages.lib.ingestion import layouts
from stages.lib.ingestion.contents import Item, contents
from stages.lib.ingestion.layout import Image
from stages.lib.ingestion.listing import Entry
from stages.lib.ingestion.look import Look, look
from stages.lib.ingestion.parallel import Crew
from stages.lib.ingestion.raw import Place, RawReader
from stages.lib.params.sources import Source

TOGETHER, BYTES_TOGETHER = 128, 16 << 20  # images, and bytes of them, that a process decodes before it reports


class Findings:
    """What only comes out of an archive in passing is decoded then; the rest when the layout has said that it is an image."""

    def __init__(self, name: str, place: Place, source: Source, crew: Crew) -> None:
        self.name, self.place, self.source, self.crew = name, place, source, crew
        self.items: dict[str, Item] = {}
        self._looks: dict[str, Look | str] = {}
        self._texts: dict[str, bytes] = {}

    def open(self, entries: Sequence[Entry]) -> None:
        """Go through every file and archive once."""
        waiting: dict[str, bytes] = {}
        endings = layouts.texts(self.source.layout)

        def passing() -> Iterator[list[tuple[str, bytes]]]:
            for item in contents(self.place, self.source, entries):
                member, data = item.entry.member, item.data
                self.items[member] = item._replace(data=None)
                if data is not None and member.lower().endswith(endings):
                    self._texts[member] = data
                elif data is not None:
                    waiting[member] = data
                    if len(waiting) == TOGETHER or sum(map(len, waiting.values())) > BYTES_TOGETHER:
                        yield list(waiting.items())
                        waiting.clear()
            if waiting:
                yield list(waiting.items())

        for part in self.crew.ordered(f"{self.name}: decoded groups of at most {TOGETHER} images", look_all, passing()):
            self._looks.update(part)

    def text(self, entry: Entry) -> bytes:
        """A file that says what the images are."""
        if entry.member not in self._texts:
            item = self.items[entry.member]
            with RawReader(self.place) as reader:
                self._texts[entry.member] = reader.read(*where(item))
        return self._texts[entry.member]

    def looks(self, images: Sequence[Image]) -> list[Look | str]:
        """What every image is, or why it is none, in order."""
        rest = [self.items[image.entry.member] for image in images if image.entry.member not in self._looks]
        parts = [rest[at : at + TOGETHER] for at in range(0, len(rest), TOGETHER)]
        what = f"{self.name}: decoded groups of {TOGETHER} images"
        for part in self.crew.ordered(what, partial(read_all, self.place), parts):
            self._looks.update(part)
        return [self._looks[image.entry.member] for image in images]


def where(item: Item) -> tuple[str, str, int, int, str]:
    """What RawReader.read wants."""
    entry = item.entry
    return entry.member, item.container, entry.offset, entry.bytes, entry.sha256


def look_all(part: Sequence[tuple[str, bytes]]) -> list[tuple[str, Look | str]]:
    """One task of a process: images that came with their bytes."""
    return [(member, look(data)) for member, data in part]


def read_all(place: Place, part: Sequence[Item]) -> list[tuple[str, Look | str]]:
    """One task of a process: images read at their places."""
    with RawReader(place) as reader:
        return [(item.entry.member, look(reader.read(*where(item)))) for item in part]
