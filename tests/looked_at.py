"""A project in this process: the code, 46 images, and parameters shrunk until a stage takes a second."""

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import workspace
from tests.test_evaluate import SET, write_set

CHANGES = {
    "sets.main": SET,
    "system.device": "cpu",
    "system.workers": 0,
    "pretrain.epochs": 2,
    "pretrain.batch_size": 8,
    "pretrain.model": {"patch_size": 4, "width": 24, "depth": 2, "heads": 2},
    "pretrain.decoder": {"width": 16, "depth": 1, "heads": 2},
    "pretrain.schedule.warmup_epochs": 0,
    "probe.batch_size": 16,
    "probe.linear.epochs": 2,
    "probe.linear.batch_size": 8,
    "probe.linear.norm_group": 4,
    "probe.linear.schedule.warmup_epochs": 0,
}


def lay_out(folder: Path) -> None:
    """Index and shards of test_evaluate's images beside the repository's code."""
    workspace.lay_out(folder)
    write_set(folder)
    workspace.edit(folder, CHANGES)


def main(monkeypatch: pytest.MonkeyPatch, root: Path, stage: ModuleType, *words: str) -> None:
    """A stage's main() there."""
    monkeypatch.chdir(root)
    monkeypatch.delenv("TUTELAGE_RUNS", raising=False)
    monkeypatch.setattr(sys, "argv", [stage.__name__, *words])
    stage.main()


def relabel(root: Path, seed: int) -> None:
    """Deal the index's labels anew within each split."""
    path = root / f"data/index/{SET}.parquet"
    table = pq.read_table(path)
    rng, labels = np.random.default_rng(seed), table["label"].to_numpy().copy()
    for split in ("train", "val"):
        rows = np.flatnonzero(np.array(table["split"].to_pylist()) == split)
        labels[rows] = rng.permutation(labels[rows])
    place = table.column_names.index("label")
    pq.write_table(table.set_column(place, "label", pa.array(labels, pa.int32())), path, write_page_checksum=True)
