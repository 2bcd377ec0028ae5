"""Every file of a raw source, archives opened: what `ingest` looks at first, and what `shard` copies in the source's own order."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from stages.lib.ingestion import layouts
from stages.lib.ingestion.expansion import expand, opens
from stages.lib.ingestion.listing import Entry
from stages.lib.ingestion.raw import Place
from stages.lib.params.sources import Source


class Item(NamedTuple):
    """A file, on its own or inside another."""

    entry: Entry
    """As listed; inside an archive sha256 is empty, and member is <archive>/<path inside>."""
    container: str
    """The listed archive it lies in; empty for a file of its own, and in a tar whose members are listed."""
    data: bytes | None
    """Its bytes where they had to be read to get here; None: read it at its place."""


def contents(place: Place, source: Source, entries: Sequence[Entry]) -> Iterator[Item]:
    """Every file, in order of the listing and then of each archive. Raises Refusal naming an archive that cannot be read."""
    reader_of = layouts.readers(source.layout)
    archives = layouts.archived(source.layout, len(entries)) and not place.is_tar
    for entry in entries:
        if not archives or not opens(entry.member, reader_of):
            yield Item(entry, "", None)
            continue
        with place.open(entry) as file:
            for member in expand(entry.member, file, reader_of, in_place=not place.remote):
                name = member_name(source, entry.member, member.path)
                yield Item(Entry(name, member.size, "", member.offset), entry.member, member.data)


def member_name(source: Source, container: str, path: str) -> str:
    """What a file in an archive is called: by its whole path, unless the source is that one archive of an unpacked layout."""
    return path.removeprefix(f"{container}/") if source.layout in layouts.UNPACKED else path
