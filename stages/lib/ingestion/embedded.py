"""The handwritten digits bundled with scikit-learn, written out as an image folder: real images without a network.

1,797 scans of 8 x 8 pixels with values 0..16 (UCI Optical Recognition of Handwritten Digits, test part).
"""

import importlib.util
import logging
import os
import shutil
from pathlib import Path

import numpy as np

from stages.lib.core.outcome import Refusal

log = logging.getLogger(__name__)
DIGITS = {"digits-0-6": range(0, 7), "digits-7-9": range(7, 10)}


def write(name: str, folder: Path) -> None:
    """Write set `name` to `folder` as <digit>/<nnnn>.png, 8 x 8 greyscale; nnnn is scikit-learn's row. All or nothing.

    A folder that appears meanwhile (another process doing the same) is left alone.
    """
    from PIL import Image  # a scan that finds its source starts without it

    table = np.loadtxt(_bundled(), delimiter=",", dtype=np.int64)
    pixels, labels = (table[:, :64] * 255 // 16).astype(np.uint8).reshape(-1, 8, 8), table[:, 64].tolist()
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        for digit in DIGITS[name]:
            (temporary / str(digit)).mkdir(parents=True)
        rows = [row for row, label in enumerate(labels) if label in DIGITS[name]]
        for row in rows:
            Image.fromarray(pixels[row]).save(temporary / str(labels[row]) / f"{row:04d}.png")
        temporary.rename(folder)
        log.info("wrote the %d embedded images %s to %s", len(rows), name, folder)
    except OSError:
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _bundled() -> Path:
    """The file behind sklearn.datasets.load_digits(), whose import costs 4 CPU seconds; a test compares the two."""
    package = importlib.util.find_spec("sklearn")
    for folder in package.submodule_search_locations or [] if package else []:
        file = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():
            return file
    raise Refusal(
        "scikit-learn's bundled digits (sklearn/datasets/data/digits.csv.gz) are not installed; run `make setup`."
    )
