"""Keys: no dots, unique, and steady."""

import random

import pytest

from stages.lib.ingestion.keys import keys


def test_keys__drop_the_ending_and_replace_dots() -> None:
    assert keys(["a/b.c/d.e.png", "a/f.JPEG", "a/noending"]) == ["a/b_c/d_e", "a/f", "a/noending"]


def test_keys__stems_that_collide_all_get_their_ending() -> None:
    paths = sorted(["c/x.jpg", "c/x.png", "c/y.png"])
    assert keys(paths) == ["c/x-jpg", "c/x-png", "c/y"]


def test_keys__endings_that_collide_get_a_number() -> None:
    paths = sorted(["c/x.JPG", "c/x.jpg", "c/x-jpg-2.png"])
    assert dict(zip(paths, keys(paths), strict=True)) == {
        "c/x-jpg-2.png": "c/x-jpg-2",
        "c/x.JPG": "c/x-jpg",
        "c/x.jpg": "c/x-jpg-3",
    }


def test_keys__webdataset_passes_over_no_image() -> None:
    assert keys(["__other__/a.png", "c/__x__.png"]) == ["x__other__/a", "c/__x__"]


@pytest.mark.parametrize("seed", range(5))
def test_keys__are_unique_and_dotless(seed: int) -> None:
    rng = random.Random(seed)
    names = {
        "/".join(rng.choice(["a", "b.c", "a_b"]) for _ in range(2)) + rng.choice([".x", ".X", "-x", "_y.x", ""])
        for _ in range(60)
    }
    found = keys(sorted(names))
    assert len(set(found)) == len(names)
    assert not any("." in key for key in found)
