"""The carved validation split: stratified, by content, and never on both sides."""

import hashlib

import pytest

from stages.lib.ingestion.splitting import validation


def digests(*contents: object) -> list[str]:
    return [hashlib.sha256(str(content).encode()).hexdigest() for content in contents]


def test_validation__takes_the_smallest_hashes_of_each_class() -> None:
    assert validation([0] * 5 + [1] * 5, list("52314cbd06"), 0.4) == {1, 3, 8, 9}  # 2 of 5, by hand


@pytest.mark.parametrize(("count", "expected"), [(1, 0), (2, 1), (3, 1), (10, 2), (12, 2), (13, 3)])
def test_validation__rounds_but_leaves_both_sides_one(count: int, expected: int) -> None:
    assert len(validation([0] * count, digests(*range(count)), 0.2)) == expected
    assert len(validation([0] * count, digests(*range(count)), 0.99)) == max(0, min(count - 1, round(count * 0.99)))


def test_validation__equal_content_at_the_border_stays_in_train() -> None:
    assert validation([0] * 4, ["a", "b", "b", "c"], 0.5) == {0}
    assert validation([0] * 4, ["a", "a", "b", "c"], 0.5) == {0, 1}


def test_validation__equal_content_in_two_classes_stays_in_train() -> None:
    """`b` is among class 0's smallest and not among class 1's."""
    assert validation([0, 0, 0, 0, 1, 1, 1, 1], ["b", "a", "x", "y", "0", "1", "b", "z"], 0.5) == {1, 4, 5}


def test_validation__does_not_depend_on_order() -> None:
    labels, shas = [0, 1] * 30, digests(*range(60))
    chosen = {shas[place] for place in validation(labels, shas, 0.2)}
    back = validation(labels[::-1], shas[::-1], 0.2)
    assert {shas[::-1][place] for place in back} == chosen
    assert len(chosen) == 12
