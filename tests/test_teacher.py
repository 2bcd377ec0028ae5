"""The teacher stage with somebody else's weights: the same artefact as a trained one, and its measured accuracy."""

import csv
import hashlib
import shutil
from pathlib import Path

import safetensors.torch
import torch

from stages.lib.models import folder, teacher
from stages.lib.params.teacher import RegNetSizes
from tests.workspace import SET, edit, run

SIZES = RegNetSizes(depth=6, w0=24, wa=24.0, wm=2.0, group_size=8, stem_width=16)


def test_teacher__fetched_is_measured_and_saved_like_a_trained_one(project: Path, tmp_path: Path) -> None:
    place = tmp_path / "project"
    shutil.copytree(project, place, symlinks=True)
    torch.manual_seed(0)
    theirs = teacher.create("regnety_002", SIZES, 3)
    weights = place / "data/raw/theirs.safetensors"
    safetensors.torch.save_file(theirs.state_dict(), weights)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    edit(place, {"teacher.fetch": {"path": weights.name, "sha256": digest, "licence": "CC0-1.0"}})
    run(place, "stages.teacher", SET)
    model, config = folder.load(place / "data/models/teacher")
    assert config["pretrained_cfg"]["license"] == "CC0-1.0"
    assert all(
        torch.equal(a, b) for a, b in zip(theirs.state_dict().values(), model.state_dict().values(), strict=True)
    )
    (row,) = csv.DictReader((place / "data/history/teacher.csv").open())
    assert 0 <= float(row["val_top1"]) <= 100 and row["loss"] == ""
