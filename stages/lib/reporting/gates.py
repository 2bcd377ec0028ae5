"""The gates: what was checked before the pipeline went on, by which limits, and what was observed."""

from collections.abc import Mapping, Sequence
from typing import Any

from stages.lib.reporting import markup
from stages.lib.reporting.inputs import Record
from stages.lib.reporting.material import Material

INTRO = (
    "Between stages stand gates: tables of facts held against expectations by Great Expectations. A gate that fails stops the "
    "pipeline. The limits lie in <code>data/expectations/</code>; changing one runs that gate again and nothing else. "
    "Beside each file named here lies the gate's own page, which tells more."
)
NAMED = 5  # rows named for each expectation here; the gate's own page names more


def of_sets(found: Material, kind: str) -> list[str]:
    """The names of a kind of gate for every set."""
    return [f"{kind}-{name}" for name in found.all_sets()]


def state(found: Material, names: Sequence[str]) -> str:
    """One word for some gates together."""
    records = [found.gates[name] for name in names]
    if any(record and not passed(record) for record in records):
        return markup.element("small", "✗ gate failed", class_="bad")
    if all(records):
        return markup.element("small", "✓ gate passed", class_="good")
    return markup.element("small", "gated in part" if any(records) else "absent", class_="muted")


def passed(details: Record) -> bool:
    """Whether a gate let the pipeline go on."""
    return details.values.get("passed") is True


def section(found: Material) -> str:
    """Every gate in a table, and each one's checks below, folded."""
    rows = [_row(found, name, details) for name, details in found.gates.items()]
    head = ["Gate", "State", "Checks", "Failed", "File"]
    table = markup.table("Every gate, in the order of the pipeline.", head, rows, class_="placed")
    folded = "".join(_checks(name, details) for name, details in found.gates.items() if details)
    return markup.section("gates", "Gates", markup.paragraph(INTRO) + table + folded)


def _row(found: Material, name: str, details: Record | None) -> list[str]:
    file = markup.code(found.folder.label(f"gate-details/{name}.json"))
    if details is None:
        return [markup.name(name), '<span class="muted">absent</span>', markup.DASH, markup.DASH, file]
    word = '<span class="good">✓ passed</span>' if passed(details) else '<span class="bad">✗ failed</span>'
    count = found.ledger.worked_out(str(len(expectations(details))), details.file, "length of expectations")
    return [markup.name(name), word, count, found.ledger.number(details.fact("failed")), file]


def expectations(details: Record) -> list[Mapping[str, Any]]:
    """What the gate checked; whatever is no expectation is passed over."""
    found = details.values.get("expectations")
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _checks(name: str, details: Record) -> str:
    """A gate's checks, folded unless one failed."""
    rows = [_check(one) for one in expectations(details)]
    head = ["Check", "State", "Observed", "Rows against it"]
    about = markup.text(details.values.get("about", ""))
    content = markup.table(about, head, rows, details.file, class_="checks")
    bad = "".join(_named(one) for one in expectations(details) if one.get("rows"))
    opened = None if passed(details) else "open"
    summary = markup.element("summary", f"What {markup.name(name)} checked")
    return markup.element("details", summary + content + bad, open=opened, data_source=details.file)


def _check(one: Mapping[str, Any]) -> list[str]:
    word = '<span class="good">✓</span>' if one.get("success") is True else '<span class="bad">✗ failed</span>'
    why = markup.element("small", markup.text(one["why"])) if one.get("why") else ""
    observed = one.get("error") or one.get("observed")
    seen = markup.DASH if observed in (None, "") else markup.text(brief(observed))
    return [describe(one) + why, word, seen, _against(one)]


def _against(one: Mapping[str, Any]) -> str:
    """`3 of 1,083`; a dash for a check that is not about rows."""
    bad, checked = one.get("unexpected"), one.get("checked")
    return f"{bad:,} of {checked:,}" if isinstance(bad, int) and isinstance(checked, int) else markup.DASH


def describe(one: Mapping[str, Any]) -> str:
    """An expectation in words, such as `images.width` values to be between 4 and 30,000."""
    kwargs = one.get("kwargs")
    limits = dict(kwargs) if isinstance(kwargs, dict) else {}
    columns = [str(limits.pop(key)) for key in ("column", "column_A", "column_B") if key in limits]
    columns += [str(column) for column in limits.pop("column_list", [])]
    about = ".".join(part for part in (str(one.get("table", "")), ", ".join(columns)) if part)
    words = str(one.get("type", "")).removeprefix("expect_").removeprefix("column_").replace("_", " ")
    low, high = limits.pop("min_value", None), limits.pop("max_value", None)
    if low is not None and high is not None:
        words += f" {brief(low)} and {brief(high)}"
    elif low is not None or high is not None:
        words = words.removesuffix("between") + (f"at least {brief(low)}" if high is None else f"at most {brief(high)}")
    told = ", ".join(f"{key.replace('_', ' ')} {brief(value)}" for key, value in limits.items())
    return f"{markup.code(about)} {markup.text(words)}{markup.text(f' ({told})' if told else '')}"


def brief(value: Any, longest: int = 120) -> str:
    """A value in one line; a long one is cut, and says so."""
    if isinstance(value, list):
        value = ", ".join(str(one) for one in value) or "nothing"
    shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return shown if len(shown) <= longest else f"{shown[:longest]} …"


def _named(one: Mapping[str, Any]) -> str:
    """The rows that break an expectation, by name."""
    rows = [row for row in one["rows"] if isinstance(row, dict)][:NAMED]
    told = [", ".join(f"{key} {value}" for key, value in row.items()) for row in rows]
    lines = "".join(markup.element("li", markup.text(brief(row, 300))) for row in told)
    return markup.paragraph(f"Against {describe(one)}:") + markup.element("ul", lines)
