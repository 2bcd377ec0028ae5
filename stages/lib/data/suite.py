"""Suites of expectations: JSON files that a person can edit, checked before anything is spent on facts.

{"about": "...", "tables": {<table>: [{"type": "expect_...", "kwargs": {...}, "meta": {"why": "..."}}]}}. Types and kwargs are
Great Expectations' own; `row_condition` is a pandas query, and `mostly` the share of rows that must agree.
"""

import difflib
import functools
import gc
import json
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from stages.lib.core.outcome import Refusal

Guide = Mapping[str, Mapping[str, str]]  # table -> column -> what it means; the last table has one row, about the whole


@dataclass(frozen=True)
class Expectation:
    """One line of a suite; `check` is the same as Great Expectations knows it."""

    type: str
    kwargs: dict[str, Any]
    why: str
    check: Any

    @property
    def columns(self) -> list[str]:
        """The columns it is about."""
        return _columns(self.kwargs)


@dataclass(frozen=True)
class Suite:
    """A suite file, known to name only tables, columns and expectations that exist."""

    about: str
    tables: dict[str, list[Expectation]]


def read(path: Path, guide: Guide) -> Suite:
    """The suite of a file, for tables with the columns of `guide`. Raises Refusal naming what is wrong, and the nearest names."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Refusal(f"{path} is missing or no JSON ({error}); `git checkout {path}` restores it.") from None
    if not isinstance(content, dict) or set(content) != {"about", "tables"} or not isinstance(content["tables"], dict):
        raise Refusal(f'{path} must be {{"about": "...", "tables": {{"<table>": [...]}}}} and nothing else.')
    tables = {}
    for table, lines in content["tables"].items():
        _known(path, "table", table, guide)
        if not isinstance(lines, list):
            raise Refusal(f"{path}: the table {table} must hold a list of expectations.")
        tables[table] = [
            _expectation(f"{path}, {table}, expectation {place}", line, guide[table])
            for place, line in enumerate(lines, 1)
        ]
    return Suite(str(content["about"]), tables)


@functools.cache
def engine() -> Any:
    """Great Expectations, imported late (3 to 6 s) and kept from calling home."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    logging.getLogger("great_expectations").setLevel(logging.ERROR)  # what goes wrong comes back in the results
    gc.disable()  # an import makes a million objects and no garbage: looking for some takes an eighth of the time
    try:
        import great_expectations
    finally:
        gc.enable()
    logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.ERROR)  # it sets itself to INFO
    return great_expectations


def _expectation(where: str, line: Any, columns: Mapping[str, str]) -> Expectation:
    """One line of a suite, checked before anything is spent on facts."""
    engine()  # registers what is listed here
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration
    from great_expectations.expectations.registry import list_registered_expectation_implementations

    if not isinstance(line, dict) or not {"type", "kwargs"} <= set(line) <= {"type", "kwargs", "meta"}:
        raise Refusal(
            f'{where} must be {{"type": "expect_...", "kwargs": {{...}}, "meta": {{"why": "..."}}}} and nothing else.'
        )
    _known(where, "expectation type", line["type"], sorted(list_registered_expectation_implementations()))
    kwargs, meta = dict(line["kwargs"]), line.get("meta", {})
    for column in _columns(kwargs):
        _known(where, "column", column, columns)
    if "row_condition" in kwargs:
        kwargs["condition_parser"] = "pandas"
        _selects(where, str(kwargs["row_condition"]), columns)
    try:
        check = ExpectationConfiguration(type=line["type"], kwargs=kwargs).to_domain_obj()
    except ValueError as error:  # pydantic's: a limit that is missing, unknown or of the wrong kind
        raise Refusal(f"{where}, {line['type']}: {'; '.join(str(error).splitlines()[1:])}") from None
    return Expectation(line["type"], dict(line["kwargs"]), str(meta.get("why", "")), check)


def _columns(kwargs: Mapping[str, Any]) -> list[str]:
    """Columns that kwargs name."""
    single = [kwargs[name] for name in ("column", "column_A", "column_B") if name in kwargs]
    return [str(column) for column in [*single, *kwargs.get("column_list", [])]]


def _known(where: object, what: str, name: object, known: Iterable[str]) -> None:
    """Raises Refusal for a name that is not there, with the nearest that is."""
    names = list(known)
    if name in names:
        return
    near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    listed = f" Known here: {', '.join(names)}." if len(names) < 40 else ""
    raise Refusal(f"{where}: there is no {what} {name!r}. {hint}{listed}".rstrip())


def _selects(where: str, condition: str, columns: Mapping[str, str]) -> None:
    """Raises Refusal for a row_condition that is no query over these columns."""
    try:
        pd.DataFrame({column: pd.Series(dtype=object) for column in columns}).query(condition)
    except Exception as error:
        known = ", ".join(columns)
        raise Refusal(f"{where}: row_condition {condition!r} is no pandas query ({error}). Columns: {known}.") from None
