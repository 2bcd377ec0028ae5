"""Bytes become lines the same way, however they are cut into pieces."""

import itertools
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.lines import LONGEST, Lines, Splitter

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


def test_lines__what_opens_doors_is_masked_whoever_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC, git and torch speak there too; what is handed on goes to a server and its pages, and into the reason of a failure."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "pl4nted/secret")
    output, mouth = os.pipe()
    handed: list[str] = []
    lines = Lines(output, handed.append)
    with open(mouth, "wb") as file:
        file.write(
            b"key pl4nted/secret\nfatal: 'https://me:pl4nted@host/x.git'\nGET https://h/w?X-Amz-Signature=pl4nted&y=1\nplain"
        )
    lines.finish(10)
    assert handed == ["key ***", "fatal: 'https://***@host/x.git'", "GET https://h/w?X-Amz-Signature=***&y=1", "plain"]
    assert "pl4nted" not in "".join(lines.tail)
