"""A gate's page: what was expected, what was found, and which rows differ. One file, no script, nothing from the network.

It shares no code with the report on purpose: a change of the report's looks must not make a gate stale.
"""

import html
from collections.abc import Mapping, Sequence
from typing import Any

CSS = """
.gate{--line:#d9dee3;--soft:#5a6572;--good:#17753f;--bad:#b42318;--tint:#fdf0ee;font:15px/1.5 system-ui,sans-serif}
.gate table{border-collapse:collapse;font-variant-numeric:tabular-nums;margin:.4rem 0 1rem}
.gate th,.gate td{padding:.3rem .8rem .3rem 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--line)}
.gate thead th,.gate .soft{color:var(--soft);font-weight:400}.gate thead th{font-size:.85em;border-bottom-color:var(--soft)}
.gate .wide{overflow-x:auto}
.gate .checks td{overflow-wrap:break-word}.gate .good{color:var(--good)}.gate .bad{color:var(--bad)}.gate small{display:block}
.gate tr.broken>td{background:var(--tint)}.gate code{font:.88em ui-monospace,Menlo,Consolas,monospace;overflow-wrap:anywhere}
.gate .checks{width:100%}.gate .checks>*>tr>:first-child{width:5.5rem}.gate .checks>*>tr>:nth-child(2){width:38%}
.gate .checks>*>tr>:nth-child(3){width:22%}.gate summary{cursor:pointer;padding:.3rem 0}
.gate td table{margin:.2rem 0}.gate .listed td{white-space:nowrap;font-size:.88em}
@media(prefers-color-scheme:dark){.gate{--line:#343b43;--soft:#9aa5b1;--good:#5fd08f;--bad:#ff8d80;--tint:#2c1c1b}}
"""
PAGE_CSS = """
body{margin:0;background:#fff;color:#1c2127}main{max-width:76rem;margin:0 auto;padding:1.5rem 1.25rem 4rem}
h1{font-size:1.7rem;margin:.2rem 0 .6rem}h2{font-size:1.2rem;margin:2.2rem 0 .3rem}
.state{border-left:4px solid currentColor;padding:.1rem .9rem;font-size:1.1rem}p{max-width:48rem}
@media(prefers-color-scheme:dark){body{background:#14171a;color:#e8eaed}}
"""
PAIRS = {"pair values to be equal": "equal to", "pair values a to be greater than b": "greater than"}
SAID = {
    "column",
    "column_A",
    "column_B",
    "column_list",
    "min_value",
    "max_value",
    "strict_min",
    "strict_max",
    "or_equal",
}


def page(details: Mapping[str, Any]) -> str:
    """The whole page of a gate's details."""
    gate, passed = text(details["gate"]), details["passed"]
    parts = [
        f"<h1>Gate {gate}</h1>",
        f'<p class="state {"good" if passed else "bad"}">{text(verdict(details))}</p>',
        f"<p>{text(details['about'])}</p>",
        f'<p class="soft">Limits: <code>{text(details["suite"])}</code>. Edit them there; only this gate runs again.</p>',
        expectations(details),
        "<h2>Facts</h2>",
        *(_table(name, table) for name, table in details["tables"].items()),
    ]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Gate {gate}</title>'
    body = f'<main class="gate">{"".join(parts)}</main>'
    return f'<!doctype html>\n<html lang="en"><head>{head}<style>{CSS}{PAGE_CSS}</style></head><body>{body}</body></html>\n'


def expectations(details: Mapping[str, Any]) -> str:
    """A fragment with every expectation of a gate, table by table, those that do not hold first; its looks are in CSS."""
    parts = []
    for name in details["tables"]:
        mine = [one for one in details["expectations"] if one["table"] == name]
        rows = [_expectation(one) for one in sorted(mine, key=lambda one: one["success"])]
        if rows:
            parts.append(
                f"<h2>Expected of {text(name)}</h2>{_grid(['', 'Expectation', 'Observed', 'Rows that differ'], rows, 'checks')}"
            )
    return f'<div class="gate">{"".join(parts)}</div>'


def verdict(details: Mapping[str, Any]) -> str:
    """One sentence."""
    total, failed = len(details["expectations"]), details["failed"]
    if failed:
        return f"Failed: {failed} of {total} expectations do not hold."
    return f"Passed: all {total} expectations hold."


def sentence(expectation: Mapping[str, Any]) -> str:
    """An expectation in words, such as `width: values to be between 4 and 30,000`."""
    kwargs = expectation["kwargs"]
    columns = [kwargs[name] for name in ("column", "column_A", "column_B") if name in kwargs]
    columns += kwargs.get("column_list", [])
    words = expectation["type"].removeprefix("expect_").removeprefix("column_").replace("_", " ")
    if words in PAIRS:
        columns, words = [], f"{columns[0]} {'at least' if kwargs.get('or_equal') else PAIRS[words]} {columns[1]}"
    if "min_value" in kwargs or "max_value" in kwargs:
        words = words.removesuffix("between") + _range(kwargs)
    rest = [_limit(name, value) for name, value in kwargs.items() if name not in SAID]
    return " ".join([", ".join(map(str, columns)) + ":" if columns else "", words, *rest]).strip()


def counted(expectation: Mapping[str, Any]) -> str:
    """`3 of 1,083 rows`, and how many of them are named."""
    broken, shown = expectation["unexpected"], len(expectation["rows"])
    if broken is None:
        return f"{shown} values" if shown else ""
    part = f", {shown:,} of them shown" if 0 < shown < broken else ""
    return f"{broken:,} of {expectation['checked']:,} rows{part}"


def text(value: object) -> str:
    """Any value as text that cannot become markup; numbers with thousands separated, no value as a dash."""
    return html.escape(_shown(value), quote=True)


def _shown(value: object) -> str:
    if value is None:
        return "\u2013"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    return ", ".join(map(_shown, value)) if isinstance(value, list) else str(value)


def _range(kwargs: Mapping[str, Any]) -> str:
    low, high = kwargs.get("min_value"), kwargs.get("max_value")
    above = f"{'above' if kwargs.get('strict_min') else 'at least'} {_shown(low)}"
    below = f"{'below' if kwargs.get('strict_max') else 'at most'} {_shown(high)}"
    if low is None or high is None:
        return below if low is None else above
    return _shown(low) if low == high else f"between {_shown(low)} and {_shown(high)}"


def _limit(name: str, value: Any) -> str:
    """A kwarg that is no column and no range."""
    if name == "value_set":
        return "{" + ", ".join("(none)" if one == "" else _shown(one) for one in value) + "}"
    if name == "row_condition":
        return f"where {value}"
    if name == "mostly":
        return f"for at least {100 * value:g} % of the rows"
    return f"({name.replace('_', ' ')}: {_shown(value)})"


def _expectation(one: Mapping[str, Any]) -> str:
    """A row of the expectations table."""
    mark = (
        '<span class="good">&#10003;&nbsp;holds</span>'
        if one["success"]
        else '<span class="bad">&#10007;&nbsp;broken</span>'
    )
    cells = [mark, f"{text(sentence(one))}<small class='soft'>{text(one['why'])}</small>", text(one["observed"])]
    found = text(counted(one))
    if one["error"]:
        found += f'<small class="bad">Could not be evaluated: {text(one["error"])}</small>'
    if one["rows"]:
        found += _grid(list(one["rows"][0]), [_row(map(text, row.values())) for row in one["rows"]], "listed")
    return _row([*cells, found], "" if one["success"] else "broken")


def _table(name: str, table: Mapping[str, Any]) -> str:
    """A table of facts: its columns, and its rows folded away."""
    rows, listed = table["rows"], table["listed"]
    columns = [
        _row([f"<code>{text(n)}</code>", text(c["meaning"]), text(c["observed"])]) for n, c in table["columns"].items()
    ]
    shown = f"{rows:,} rows" if len(listed) == rows else f"The first {len(listed):,} of {rows:,} rows"
    body = _grid(list(table["columns"]), [_row(map(text, row)) for row in listed], "listed")
    return (
        f"<details><summary>{text(name)}: {rows:,} {'row' if rows == 1 else 'rows'}, columns and what they hold</summary>"
        f"{_grid(['Column', 'What it is', 'Observed'], columns)}<details><summary>{shown}</summary>{body}</details></details>"
    )


def _grid(head: Sequence[str], rows: Sequence[str], kind: str = "") -> str:
    titles = "".join(f"<th>{text(title)}</th>" for title in head)
    return f'<div class="wide"><table class="{kind}"><thead><tr>{titles}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _row(cells: Any, kind: str = "") -> str:
    return f'<tr class="{kind}">' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
