"""Every number of the page carries where it stands: a file and a place in it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from stages.lib.reporting import commands, markup


@dataclass(frozen=True)
class Fact:
    """A value, the file it was read from, and where in it: a dotted key, a column and row, or how it was worked out."""

    value: Any
    file: str
    key: str


class Ledger:
    """Numbers the places the page cites, in the order of the page; the list stands at its end."""

    def __init__(self) -> None:
        self.cited: dict[tuple[str, str], tuple[int, Fact]] = {}

    def cite(self, fact: Fact, shown: str) -> str:
        """`shown` as a link to the fact's line in the list; its tooltip names the place."""
        place = (fact.file, fact.key)
        number, known = self.cited.setdefault(place, (len(self.cited) + 1, fact))
        assert known.value == fact.value or known.value != known.value, (
            f"{place} cannot be both {known.value} and {fact.value}"
        )
        title = markup.text(f"{fact.file}: {fact.key}")
        return f'{markup.NUMBER} href="#s{number}" title="{title}">{markup.text(shown)}</a>'

    def percent(self, fact: Fact | None) -> str:
        """97.2222 -> 97.22 %; the full value stands in the list."""
        return self._shown(fact, "{:.2f} %", "{:.2f} %")

    def number(self, fact: Fact | None) -> str:
        """1082 -> 1,082; 0.123456 -> 0.1235, four significant figures; a word as it is."""
        return self._shown(fact, "{:,}", "{:.4g}")

    def worked_out(self, shown: str, file: str, how: str) -> str:
        """A number that stands in no file: how it follows from what does."""
        return self.cite(Fact(shown, file, how), shown)

    def _shown(self, fact: Fact | None, whole: str, broken: str) -> str:
        """A number in its style; anything else as it is, so that a surprise in a file is seen and not hidden."""
        if fact is None:
            return ABSENT
        if isinstance(fact.value, bool) or not isinstance(fact.value, int | float):
            return self.cite(fact, str(fact.value))
        return self.cite(fact, (whole if isinstance(fact.value, int) else broken).format(fact.value))

    def facts(self, caption: str, lines: Sequence[tuple[str, Fact | None]], percents: Collection[str] = ()) -> str:
        """A table of (title, fact) with each fact's place, a missing fact left out; those titled in `percents` are shares."""
        found = [(title, fact) for title, fact in lines if fact]
        rows = [
            [
                markup.text(title),
                (self.percent if title in percents else self.number)(fact),
                markup.place(fact.key),
            ]
            for title, fact in found
        ]
        source = markup.origin(", ".join(dict.fromkeys(fact.file for _, fact in found)))
        return markup.table(f"{caption} {source}", ["What", "Value", "Place"], rows, class_="facts placed")

    def listing(self) -> str:
        """The list: number, file, place in it, value in full, and what makes the file; a field above it finds lines."""
        rows = [
            [
                markup.element("span", str(number), id=f"s{number}"),
                markup.code(fact.file),
                markup.place(fact.key),
                markup.code(fact.value),
                markup.code(commands.command(fact.file)),
            ]
            for number, fact in self.cited.values()
        ]
        head = ["No.", "File", "Place", "Value in full", "Command"]
        table = markup.table("Every number cited above, in the order of the page.", head, rows)
        return markup.findable("Find a number", table)


ABSENT = '<span class="none" title="not in the file">not measured</span>'
