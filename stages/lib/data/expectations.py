"""Holds a suite of expectations against tables of facts with Great Expectations, and says which rows differ."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from stages.lib.data.suite import Expectation, Guide, Suite, engine

Naming = Mapping[str, tuple[str, ...]]  # table -> the columns that tell a person which row it is
SHOWN = 20  # rows named for each expectation
LISTED = 500  # a table of facts no longer than this is listed whole
SEVERAL = 6  # a column of no more different values is told by their counts
SUMMARY = {"result_format": "SUMMARY", "partial_unexpected_count": SHOWN}
# Without unexpected_index_column_names Great Expectations names rows by place, and the names are looked up here: a million
# bad rows then cost a second and no memory, where asking it for the names of all takes 40 s and keeps 20 of them anyway.


def judge(suite: Suite, facts: Mapping[str, pd.DataFrame], guide: Guide, naming: Naming) -> dict[str, Any]:
    """Hold the suite against the facts; what was found holds no time, path or id, so equal facts give equal details.

    {"about", "passed", "failed": how many,
     "facts": the last table, which has one row, as a mapping,
     "expectations": [{"table", "type", "kwargs", "why", "success", "observed", "checked" and "unexpected" (rows; null where
                       it is not about rows), "rows" (the first SHOWN that break it, as mappings), "error"}],
     "tables": {<table>: {"rows", "columns": {<column>: {"meaning", "observed"}}, "listed": [first rows, as lists]}}}
    """
    asset = _asset()
    tables: dict[str, dict[str, Any]] = {}
    found: list[dict[str, Any]] = []
    for name, table in facts.items():
        seen = {column: described(table[column]) for column in guide[name]}
        tables[name] = {
            "rows": len(table),
            "columns": {column: {"meaning": guide[name][column], "observed": seen[column]} for column in guide[name]},
            "listed": _listed(table[list(guide[name])]),
        }
        assert isinstance(table.index, pd.RangeIndex)  # rows are found again by place
        found += [
            {"table": name, **_judged(line, asset, table, seen, naming[name])} for line in suite.tables.get(name, [])
        ]
    whole = list(guide)[-1]
    failed = [line["success"] for line in found].count(False)
    return {
        "about": suite.about,
        "passed": not failed,
        "failed": failed,
        "facts": dict(zip(guide[whole], tables[whole]["listed"][0], strict=True)),
        "expectations": found,
        "tables": tables,
    }


def described(values: pd.Series) -> str:
    """What a column holds, in a few words: its range, its few values with their counts, or how many different ones."""
    present = values.dropna()
    missing = f", {len(values) - len(present):,} empty" if len(values) > len(present) else ""
    if not len(present):
        return "all empty" if len(values) else "no rows"
    if pd.api.types.is_numeric_dtype(present) and not pd.api.types.is_bool_dtype(present):
        low, high = _number(present.min()), _number(present.max())
        return (low if low == high else f"{low} to {high}") + missing
    counts = present.value_counts().head(SEVERAL + 1)
    told = [
        f"{_word(value)} {n:,} times" for value, n in sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))
    ]
    if len(counts) > SEVERAL or len(", ".join(told)) > 30 * SEVERAL:
        return f"{present.nunique():,} different" + missing
    return ", ".join(told) + missing


def _judged(
    line: Expectation, asset: Any, table: pd.DataFrame, seen: Mapping[str, str], naming: tuple[str, ...]
) -> dict[str, Any]:
    """One expectation with what was found, the first rows that break it by name."""
    batch = asset.get_batch({"dataframe": table[_needed(line, table)]})
    found = batch.validate(line.check, result_format=SUMMARY)
    result = found.result
    if condition := line.kwargs.get("row_condition"):
        seen = {column: described(table.query(condition)[column]) for column in line.columns}
    observed = _plain(result.get("observed_value"))
    places, count = result.get("partial_unexpected_index_list"), result.get("element_count")
    if places is None:  # about the column as a whole
        rows = [{"value": _plain(value)} for value in result.get("partial_unexpected_list", [])]
    else:
        named = table.loc[places, list(dict.fromkeys([*naming, *line.columns]))]
        rows = [{column: _plain(value) for column, value in row.items()} for row in named.to_dict("records")]
    return {
        "type": line.type,
        "kwargs": line.kwargs,
        "why": line.why,
        "success": bool(found.success),
        "observed": _observed(line.columns, seen) if observed is None else observed,
        "checked": None if count is None else int(count - result.get("missing_count", 0)),
        "unexpected": None if count is None else int(result.get("unexpected_count", 0)),
        "rows": rows,
        "error": _error(found.exception_info),
    }


def _observed(columns: list[str], seen: Mapping[str, str]) -> str:
    """What the columns hold; several by name."""
    return seen[columns[0]] if len(columns) == 1 else "; ".join(f"{column} {seen[column]}" for column in columns)


def _asset() -> Any:
    """What Great Expectations takes tables from."""
    context = engine().get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    return (
        context.data_sources.add_pandas("facts")
        .add_dataframe_asset("table")
        .add_batch_definition_whole_dataframe("all")
    )


def _needed(line: Expectation, table: pd.DataFrame) -> list[str]:
    """The columns an expectation speaks of: Great Expectations copies what it is given, again and again."""
    words = {*line.columns, *re.findall(r"\w+", str(line.kwargs.get("row_condition", "")))}
    return [column for column in table if column in words] if line.columns else list(table)


def _error(info: Mapping[str, Any]) -> str | None:
    """Why an expectation could not be evaluated; None where it could."""
    errors = [info] if "raised_exception" in info else list(info.values())
    messages = [str(one["exception_message"]) for one in errors if one["raised_exception"]]
    return "; ".join(dict.fromkeys(messages)) or None


def _listed(table: pd.DataFrame) -> list[list[Any]]:
    """The rows of a short table, the first SHOWN of a long one."""
    rows = table if len(table) <= LISTED else table.head(SHOWN)
    return [[_plain(value) for value in row] for row in rows.itertuples(index=False, name=None)]


def _plain(value: Any) -> Any:
    """A value as JSON has it: empty is null, nine digits are enough."""
    if isinstance(value, (list, tuple, set)):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float):
        return None if np.isnan(value) else float(f"{value:.9g}") if np.isfinite(value) else str(value)
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def _word(value: Any) -> str:
    """A value of a column of few."""
    return "(none)" if value == "" else str(value).lower() if isinstance(value, (bool, np.bool_)) else str(value)


def _number(value: Any) -> str:
    """A number for reading: 1,083 or 0.2349."""
    return f"{int(value):,}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:.4g}"
