"""Faults in a manifest, found by its gate; and in the files themselves, found by whoever reads them."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from stages import validate
from tests import fabricated
from tests.faults.fault import Bench, Fault, cut, files, flip
from tests.ingestion.raw_project import ROOT

PATH = Path("data/manifest/toy.parquet")


class ManifestGate(Bench):
    """The gate over a manifest."""

    def look(self) -> None:
        """The gate."""
        self.where = "validate-manifest"
        validate.validate("manifest", "toy")

    def inputs(self) -> dict[str, bytes]:
        """Manifest and limits."""
        return files(Path("data/manifest"), Path("data/expectations"))

    def kept(self) -> str:
        """The gate is shut."""
        assert not Path("data/gates/manifest-toy.json").exists()
        return super().kept()


class Manifest(ManifestGate):
    """36 images of three classes in two splits."""

    kind = "manifest"

    def lay(self) -> None:
        """The manifest and the gates' limits."""
        shutil.copytree(ROOT / "data/expectations", "data/expectations")
        self.table = fabricated.manifest()
        self.write()

    def write(self, **metadata: Any) -> None:
        """Write the table, as ingest would."""
        fabricated.write_parquet(PATH, self.table, **({"classes": fabricated.CLASSES} | metadata))

    def change(self, row: str, /, **values: Any) -> None:
        """Set cells of the row with this key."""
        place = self.table.index[self.table["key"] == row][0]
        for column, value in values.items():
            self.table.loc[place, column] = value
        self.write()

    def keep(self, which: Callable[[pd.DataFrame], Any]) -> None:
        """Only these rows."""
        self.table = self.table[which(self.table)].reset_index(drop=True)
        self.write()


BEE = "val/bee/002"
DO = ("put the raw images right", "data/expectations/manifest.json")
CELLS = {
    "a label beyond the class list": ("val/bee/001", {"label": 3}, "has no name"),
    "a negative label": ("val/ant/001", {"label": -1}, "Labels are numbers from 0"),
    "a label of another class than the name": ("val/cow/001", {"label": 0}, "say the same"),
    "a key that occurs twice": ("train/cow/001", {"key": "train/cow/000"}, "A key names one image"),
    "a key with a dot": ("val/bee/000", {"key": "val/b.ee"}, "a dot ends the key"),
    "an unknown split": ("train/ant/001", {"split": "valid"}, "Stages know these splits"),
    "an unknown pixel mode": ("train/ant/002", {"mode": "XYZ"}, "Modes that decoding"),
    "a file of no bytes": ("train/ant/003", {"bytes": 0}, "An empty file is no image"),
    "an image three pixels wide": ("train/ant/004", {"width": 3}, "Less than 4 pixels"),
    "an image 40,000 pixels high": ("train/ant/005", {"height": 40_000}, "height"),
    "an unknown format": ("train/ant/006", {"format": "PSD"}, "Still images"),
    "an EXIF turn there is not": ("train/ant/007", {"orientation": 9}, "EXIF knows eight turns"),
    "a sha256 that is none": ("train/bee/000", {"sha256": "?"}, "Shards and gates compare digests"),
}  # fault -> (row, its new cells, the reason)


def copied(bench: Manifest, target: str) -> None:
    """A training image's bytes under another key too."""
    sha256 = bench.table.set_index("key")["sha256"]["train/ant/000"]
    bench.change(target, sha256=sha256)


def many_copies(bench: Manifest) -> None:
    """Eight of 36 images are one."""
    bench.table.loc[bench.table["key"].str.startswith("train/ant"), "sha256"] = "0" * 64
    bench.write()


def uneven(bench: Manifest) -> None:
    """One class with 30 times as many training images as another."""
    more = [
        bench.table[bench.table["key"] == "train/cow/000"].assign(key=f"train/cow/x{n}", sha256=f"{n:064x}")
        for n in range(30)
    ]
    bench.table = pd.concat([bench.table[~bench.table["key"].str.match("train/ant/00[1-9]")], *more]).reset_index(
        drop=True
    )
    bench.write()


FAULTS = [
    *(
        Fault(
            name,
            Manifest,
            lambda bench, row=row, cells=cells: bench.change(row, **cells),
            "validate-manifest",
            (str(cells.get("key", row)), why, *DO),
        )
        for name, (row, cells, why) in CELLS.items()
    ),
    Fault(
        "a training image among those measured with",
        Manifest,
        lambda bench: copied(bench, BEE),
        "validate-manifest",
        (BEE, "train train/ant/000", "must not be measured with", *DO),
    ),
    Fault(
        "a class without validation images",
        Manifest,
        lambda bench: bench.keep(lambda t: ~t["key"].str.startswith("val/bee/")),
        "validate-manifest",
        ("split 'val', class_name 'bee'", "Every class in every split", *DO),
    ),
    Fault(
        "no validation split",
        Manifest,
        lambda bench: bench.keep(lambda t: t["split"] == "train"),
        "validate-manifest",
        ("val_images", "something to measure with", *DO),
    ),
    Fault(
        "no image at all",
        Manifest,
        lambda bench: bench.keep(lambda t: t["split"] == "none"),
        "validate-manifest",
        ("train_images", "something to learn from", *DO),
    ),
    Fault(
        "a class that no image has",
        Manifest,
        lambda bench: bench.write(classes=[*fabricated.CLASSES, "dog"]),
        "validate-manifest",
        ("class_name 'dog'", *DO),
    ),
    Fault(
        "two classes of one name",
        Manifest,
        lambda bench: bench.write(classes=["ant", "bee", "bee"]),
        "validate-manifest",
        ("Two classes of one name", *DO),
    ),
    Fault(
        "a folder taken twice",
        Manifest,
        many_copies,
        "validate-manifest",
        ("copies_share", "a folder was taken twice", *DO),
    ),
    Fault(
        "a class 30 times as large as another",
        Manifest,
        uneven,
        "validate-manifest",
        ("train_class_ratio", "how common a class is", *DO),
    ),
    Fault("cut off", Manifest, lambda _: cut(PATH, -50), "validate-manifest", (str(PATH), "dvc checkout")),
    Fault("emptied", Manifest, lambda _: cut(PATH, 0), "validate-manifest", (str(PATH), "dvc checkout")),
    Fault(
        "a flipped byte in its table of contents",
        Manifest,
        lambda _: flip(PATH, -60),
        "validate-manifest",
        (str(PATH), "dvc checkout"),
    ),
    Fault(
        "without its class names",
        Manifest,
        lambda _: pq.write_table(pq.read_table(PATH).replace_schema_metadata(None), PATH),
        "validate-manifest",
        (str(PATH), "class", "dvc"),
    ),
    Fault(
        "without a column",
        Manifest,
        lambda _: pq.write_table(pq.read_table(PATH).drop_columns(["sha256"]), PATH),
        "validate-manifest",
        (str(PATH), "sha256", "dvc"),
    ),
    Fault("gone", Manifest, lambda _: PATH.unlink(), "validate-manifest", (f"There is no {PATH}", "dvc repro")),
]
