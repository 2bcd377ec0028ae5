"""Are the raw files there? Asked before anything is spent, and by `python -m stages.scan available`."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from stages.lib.core import files
from stages.lib.ingestion import layouts, official, raw, recorded
from stages.lib.ingestion.official import Needed
from stages.lib.ingestion.raw import Place
from stages.lib.params.sources import Source


def absent(sources: Mapping[str, Source]) -> list[str]:
    """A sentence for each local source whose files are not there and of which no scan is remembered."""
    found = []
    for name, source in sources.items():
        place = raw.locate(source)
        if place.remote or source.embedded or recorded.known(name, source.path):
            continue
        if sentence := missing(source, place):
            found.append(f"  sources.{name}: {sentence}")
    return found


def missing(source: Source, place: Place) -> str:
    """What to put where, with names and sizes; empty where there is something that `ingest` can look at.

    A set may lie there unpacked or in part, so an official file that is absent says nothing beside others; a wrong size does.
    """
    sets = layouts.OFFICIAL.get(source.layout, ())
    if not place.path.exists() or (place.path.is_dir() and not any(place.path.iterdir())):
        listed = "\n  or\n".join(official.missing(needed, {}) for needed in sets)
        return (
            f"there is nothing at {place}. Put the images there, or set TUTELAGE_RAW to the folder that relative paths of "
            "`sources` start at." + (f" Layout `{source.layout}` needs\n{listed}" if listed else "")
        )
    there = {name: size for needed in sets for name, size in present(place.path, needed).items()}
    wrong = official.missing([one for needed in sets for one in needed if one.name in there], there)
    return f"{place} holds\n{wrong}" if wrong else ""


def present(folder: Path, needed: Sequence[Needed]) -> dict[str, int]:
    """Name -> bytes of those of the official files that are there; no folder is walked."""
    paths = {one.name: folder / one.name for one in needed}
    return {name: path.stat().st_size for name, path in paths.items() if path.is_file()}


def available() -> Iterator[str]:
    """Lines for a person: which official sets lie under the raw root, as entries of `sources`, and what others lack."""
    root = files.raw_root()
    yield f"Under {root} (TUTELAGE_RAW):"
    for folder in sorted(path for path in root.glob("*") if path.is_dir()) if root.is_dir() else []:
        yield from _told(folder)


def _told(folder: Path) -> Iterator[str]:
    """The layout a folder has all or some files of."""
    for layout, sets in layouts.OFFICIAL.items():
        for needed in sets:
            there = present(folder, needed)
            if not there:
                continue
            yield f"  {folder.name}: {{layout: {layout}, path: {folder.name}}}"
            if lacking := official.missing(needed, there):
                yield f"    not complete:\n{lacking}"
