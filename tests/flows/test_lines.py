"""Bytes become lines the same way, however they are cut into pieces."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.lines import LONGEST, Splitter

TEXT = b"one\r\n10%\r20%\rdone\n\n\xc3\xa9\xff\nlast"
LINES = ["one", "done", "", "é\ufffd", "last"]


def lines_of(pieces: list[bytes]) -> list[str]:
    splitter = Splitter()
    return [line for piece in pieces for line in splitter.feed(piece)] + splitter.last()


@given(st.lists(st.integers(0, len(TEXT)), max_size=12))
def test_splitter__cuts_do_not_matter(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(TEXT)]
    assert lines_of([TEXT[a:b] for a, b in itertools.pairwise(places)]) == LINES


@pytest.mark.parametrize("pieces", [[b"a" * 10_000 + b"\n"], [b"a"] * 10_000 + [b"\n"]])
def test_splitter__a_long_line_says_what_is_missing(pieces: list[bytes]) -> None:
    assert lines_of(pieces) == ["a" * LONGEST + f" ... ({10_000 - LONGEST} bytes more)"]
