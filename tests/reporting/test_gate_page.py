"""The gate's page: complete, escaped, and alone."""

import html.parser
import re
from typing import Any

import pytest

from stages.lib.reporting import gate_page


def one(**values: Any) -> dict[str, Any]:
    plain = {
        "table": "images",
        "type": "expect_column_values_to_be_unique",
        "kwargs": {"column": "key"},
        "why": "once <b>",
        "success": True,
    }
    return plain | {"observed": "3 different", "checked": 3, "unexpected": 0, "rows": [], "error": None} | values


def details(*found: dict[str, Any]) -> dict[str, Any]:
    table = {
        "rows": 1000,
        "columns": {"key": {"meaning": "its <name>", "observed": "3 different"}},
        "listed": [["<i>k</i>"], [None]],
    }
    failed = sum(not each["success"] for each in found)
    head = {"gate": "manifest-<toy>", "kind": "manifest", "name": "<toy>", "suite": "data/expectations/manifest.json"}
    head |= {"about": "About & so on.", "passed": not failed, "failed": failed, "facts": {}}
    return head | {"expectations": list(found), "tables": {"images": table}}


class Tags(html.parser.HTMLParser):
    """Checks that tags close in the order they opened."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        assert not {"src", "href", "onclick"} & {name for name, _ in attrs}
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


BROKEN = one(
    success=False,
    unexpected=30,
    rows=[{"key": "<script>alert(1)</script>", "label": 1300}],
    kwargs={"column": "label", "min_value": 4},
)


def test_page__is_one_whole_file_without_script_or_network() -> None:
    page = gate_page.page(details(BROKEN, one()))
    tags = Tags(page)
    assert not {"script", "link", "img", "iframe"} & set(tags.seen)
    assert not re.search(r"https?:|url\(|@import", page)


def test_page__escapes_and_tells_everything() -> None:
    page = gate_page.page(details(BROKEN, one(error="<boom>")))
    for part in (
        "&lt;script&gt;alert(1)&lt;/script&gt;",
        "1,300",
        "30 of 3 rows, 1 of them shown",
        "once &lt;b&gt;",
        "manifest-&lt;toy&gt;",
    ):
        assert part in page
    for part in (
        "Failed: 1 of 2 expectations",
        "About &amp; so on.",
        "&lt;boom&gt;",
        "&lt;i&gt;k&lt;/i&gt;",
        "The first 2 of 1,000 rows",
    ):
        assert part in page
    assert page.index("broken<") < page.index("holds<")
    assert "Passed: all 1 expectations hold." in gate_page.page(details(one()))


def test_expectations__is_a_fragment() -> None:
    fragment = gate_page.expectations(details(BROKEN, one()))
    Tags(fragment)
    assert fragment.startswith('<div class="gate">') and "<html" not in fragment and "<style" not in fragment


@pytest.mark.parametrize(
    ("kind", "kwargs", "words"),
    [
        ("expect_column_values_to_be_unique", {"column": "key"}, "key: values to be unique"),
        (
            "expect_column_values_to_be_between",
            {"column": "w", "min_value": 4, "max_value": 30000},
            "w: values to be between 4 and 30,000",
        ),
        (
            "expect_column_values_to_be_between",
            {"column": "w", "max_value": 1.0, "strict_max": True},
            "w: values to be below 1",
        ),
        (
            "expect_column_mean_to_be_between",
            {"column": "w", "min_value": 2, "strict_min": True},
            "w: mean to be above 2",
        ),
        ("expect_column_values_to_be_between", {"column": "w", "min_value": 1, "max_value": 1}, "w: values to be 1"),
        (
            "expect_column_pair_values_to_be_equal",
            {"column_A": "a", "column_B": "b", "row_condition": "a > 0"},
            "a equal to b where a > 0",
        ),
        (
            "expect_column_pair_values_a_to_be_greater_than_b",
            {"column_A": "a", "column_B": "b", "or_equal": True},
            "a at least b",
        ),
        (
            "expect_column_values_to_be_in_set",
            {"column": "m", "value_set": ["", True]},
            "m: values to be in set {(none), true}",
        ),
        (
            "expect_column_values_to_match_regex",
            {"column": "m", "regex": "^a$", "mostly": 0.9},
            "m: values to match regex (regex: ^a$) for at least 90 % of the rows",
        ),
        ("expect_table_row_count_to_be_between", {"min_value": 1}, "table row count to be at least 1"),
    ],
)
def test_sentence__in_words(kind: str, kwargs: dict[str, Any], words: str) -> None:
    assert gate_page.sentence({"type": kind, "kwargs": kwargs}) == words
