"""The embedded digits: scikit-learn's, pixel for pixel."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from stages.lib.ingestion import embedded


@pytest.mark.parametrize(("name", "classes"), [("digits-0-6", 7), ("digits-7-9", 3)])
def test_write__is_what_load_digits_gives(tmp_path: Path, name: str, classes: int) -> None:
    embedded.write(name, tmp_path / "set")
    digits = load_digits()
    files = sorted((tmp_path / "set").glob("*/*.png"))
    assert len(list((tmp_path / "set").iterdir())) == classes
    assert len(files) == sum(label in embedded.DIGITS[name] for label in digits.target)
    for file in files:
        row = int(file.stem)
        with Image.open(file) as image:
            assert image.mode == "L" and image.size == (8, 8)
            assert np.array_equal(np.asarray(image), digits.images[row].astype(int) * 255 // 16)
        assert file.parent.name == str(digits.target[row])


def test_write__leaves_nothing_behind_and_loses_a_race_gracefully(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine").touch()
    embedded.write("digits-7-9", tmp_path / "set")
    assert [path.name for path in tmp_path.rglob("*")] == ["set", "mine"]
