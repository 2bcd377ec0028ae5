"""Facts about a manifest, against a table small enough to check by eye."""

from pathlib import Path

import pandas as pd
import pytest

from stages.lib.data import manifest_facts
from tests import fabricated


def table(rows: list[tuple[str, str, int, str]]) -> pd.DataFrame:
    """A manifest's rows from (key, split, label, sha256)."""
    return pd.DataFrame(rows, columns=["key", "split", "label", "sha256"])


def test_same_bytes_in__names_the_earliest_split_and_leaves_copies_inside_one_alone() -> None:
    rows = [
        ("a", "train", 0, "x"),
        ("b", "train", 0, "x"),
        ("c", "val", 0, "x"),
        ("d", "test", 0, "x"),
        ("e", "val", 0, "y"),
        ("f", "test", 0, "y"),
        ("g", "test", 0, "z"),
    ]
    found = manifest_facts.same_bytes_in(table(rows).sample(frac=1, random_state=3)).sort_index()
    first = found[2].removeprefix("train ")
    assert first in ("a", "b")  # whichever comes first in the table
    assert list(found) == ["", "", f"train {first}", f"train {first}", "", "val e", ""]


def test_class_counts__has_a_row_for_what_is_not_there() -> None:
    rows = [
        ("a", "train", 0, "1"),
        ("b", "train", 2, "2"),
        ("c", "train", 2, "3"),
        ("d", "val", 1, "4"),
        ("e", "val", 7, "5"),
    ]
    counts = manifest_facts.class_counts(table(rows), ["ant", "bee", "cow"])
    told = [(row.split, row.class_name, row.images, row.share) for row in counts.itertuples()]
    assert told == [
        ("train", "ant", 1, pytest.approx(1 / 3)),
        ("train", "bee", 0, 0),
        ("train", "cow", 2, pytest.approx(2 / 3)),
        ("val", "ant", 0, 0),
        ("val", "bee", 1, 0.5),
        ("val", "cow", 0, 0),
    ]


def test_read__has_the_columns_it_tells_of_and_counts_the_set(tmp_path: Path) -> None:
    rows = fabricated.manifest()
    rows.loc[rows["key"] == "train/ant/001", "sha256"] = rows["sha256"][0]
    rows = rows[rows["key"] != "train/cow/007"].reset_index(drop=True)
    fabricated.write_manifest(tmp_path, rows)
    facts = manifest_facts.read(tmp_path / "manifest/toy.parquet", "toy")
    assert {name: set(found) for name, found in facts.items()} == {
        name: set(columns) for name, columns in manifest_facts.GUIDE.items()
    }
    expected = {"set": "toy", "images": 35, "train_images": 23, "val_images": 12, "test_images": 0, "listed_classes": 3}
    expected |= {"seen_classes": 3, "repeated_class_names": 0, "copies_inside_splits": 1}
    found = facts["set"].iloc[0]
    assert {name: found[name] for name in expected} == expected
    assert found["train_class_ratio"] == pytest.approx(8 / 7)
    assert found["copies_share"] == pytest.approx(1 / 35)
