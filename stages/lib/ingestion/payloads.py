"""Image bytes again, after ingestion: by their places where they have some, otherwise in the source's own order, once."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence

from stages.lib.core.outcome import Refusal
from stages.lib.ingestion import layouts
from stages.lib.ingestion.contents import member_name
from stages.lib.ingestion.expansion import expand
from stages.lib.ingestion.listing import Entry
from stages.lib.ingestion.manifest import Row
from stages.lib.ingestion.raw import Place, RawReader
from stages.lib.params.sources import Source


def has_place(row: Row) -> bool:
    """Whether the image can be read by itself."""
    return not row.container or row.offset >= 0


def few(place: Place, source: Source, rows: Sequence[Row]) -> Iterator[tuple[Row, bytes]]:
    """Some images of a set, in no order. Raises Refusal where they are gone or have changed."""
    with RawReader(place) as reader:
        for row in filter(has_place, rows):
            yield row, reader.read(row.member, row.container, row.offset, row.bytes, row.sha256)
    yield from in_source_order(place, source, [row for row in rows if not has_place(row)])


def in_source_order(place: Place, source: Source, rows: Sequence[Row]) -> Iterator[tuple[Row, bytes]]:
    """Files of their own, then those in archives: each is read once from front to back and left after its last wanted image.

    Raises Refusal where they are gone or have changed.
    """
    reader_of = layouts.readers(source.layout)
    wanted: dict[str, dict[str, Row]] = defaultdict(dict)
    with RawReader(place) as reader:
        for row in rows:
            if row.container:
                wanted[row.container][row.member] = row
            else:
                yield row, reader.read(row.member, "", row.offset, row.bytes, row.sha256)
    for container, members in sorted(wanted.items()):
        with place.open(Entry(container, 0, "", -1)) as file:
            for member in expand(container, file, reader_of, in_place=False):
                found = members.pop(member_name(source, container, member.path), None)
                if found is None:
                    continue
                assert member.data is not None
                if hashlib.sha256(member.data).hexdigest() != found.sha256:
                    raise changed(place, found, "its sha256 differs")
                yield found, member.data
                if not members:
                    break
        if members:
            raise changed(place, next(iter(members.values())), f"it and {len(members) - 1} others are gone")


def changed(place: Place, row: Row, how: str) -> Refusal:
    """What to tell the person whose archive is another than the one that was ingested."""
    return Refusal(
        f"{row.member} in {place} has changed since it was ingested ({how}). If that is meant, `dvc repro` scans and ingests "
        "again; if not, restore the file."
    )
