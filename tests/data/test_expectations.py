"""What the details tell: columns in a few words, and rows found by place, also where a condition leaves rows out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from stages.lib.data import expectations, suite

GUIDE = {"rows": {"name": "", "a": "", "b": ""}, "whole": {"n": ""}}
NAMING = {"rows": ("name",), "whole": ("n",)}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([1, 1083, 7], "1 to 1,083"),
        ([8, 8], "8"),
        ([0.25, np.nan, 1.5], "0.25 to 1.5, 1 empty"),
        (["RGB", "L", "RGB"], "RGB 2 times, L 1 times"),
        ([True, True, False], "true 2 times, false 1 times"),
        (["", ""], "(none) 2 times"),
        (list("abcdefgh"), "8 different"),
        (["x" * 100, "y" * 100], "2 different"),
        ([np.nan], "all empty"),
        ([], "no rows"),
    ],
)
def test_described__few_words(values: list[Any], told: str) -> None:
    assert expectations.described(pd.Series(values)) == told


def judge(tmp_path: Path, *lines: dict[str, Any]) -> list[dict[str, Any]]:
    path = tmp_path / "suite.json"
    path.write_text(json.dumps({"about": "", "tables": {"rows": lines}}))
    rows = pd.DataFrame({"name": list("pqrst"), "a": [1, 2, 3, 4, 5], "b": [1.0, 0.0, 3.0, np.nan, 0.0]})
    facts = {"rows": rows, "whole": pd.DataFrame({"n": [5]})}
    found = expectations.judge(suite.read(path, GUIDE), facts, GUIDE, NAMING)
    json.dumps(found, allow_nan=False)
    assert found["facts"] == {"n": 5} and found["passed"] == (found["failed"] == 0)
    judged: list[dict[str, Any]] = found["expectations"]
    return judged


def test_judge__names_rows_by_their_place_under_a_condition(tmp_path: Path) -> None:
    equal = {"type": "expect_column_pair_values_to_be_equal", "kwargs": {"column_A": "a", "column_B": "b"}}
    equal["kwargs"] |= {"row_condition": "a > 2 and b == b"}  # type: ignore[operator]
    (one,) = judge(tmp_path, equal)
    assert (one["success"], one["checked"], one["unexpected"]) == (False, 2, 1)
    assert one["rows"] == [{"name": "t", "a": 5, "b": 0.0}]
    assert one["observed"] == "a 3 to 5; b 0 to 3"


def test_judge__leaves_out_empty_cells_and_allows_what_mostly_allows(tmp_path: Path) -> None:
    positive = {"column": "b", "min_value": 0, "strict_min": True}
    kind = "expect_column_values_to_be_between"
    strict, mostly = judge(
        tmp_path, {"type": kind, "kwargs": positive}, {"type": kind, "kwargs": positive | {"mostly": 0.5}}
    )
    assert (strict["checked"], strict["unexpected"], [row["name"] for row in strict["rows"]]) == (4, 2, ["q", "t"])
    assert (strict["success"], mostly["success"], mostly["unexpected"]) == (False, True, 2)


def test_judge__about_a_whole_column_names_values(tmp_path: Path) -> None:
    mean = {"type": "expect_column_mean_to_be_between", "kwargs": {"column": "a", "max_value": 2}}
    among = {
        "type": "expect_column_distinct_values_to_be_in_set",
        "kwargs": {"column": "name", "value_set": list("pqrs")},
    }
    first, second = judge(tmp_path, mean, among)
    assert (first["success"], first["observed"], first["unexpected"], first["rows"]) == (False, 3.0, None, [])
    assert (second["success"], second["rows"]) == (False, [{"value": "t"}])
