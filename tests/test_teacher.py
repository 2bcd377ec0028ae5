"""The teacher stage with somebody else's weights, and with a transformer: the same artefact as a trained RegNetY."""

import csv
import hashlib
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import timm
import torch

from stages import distill, finetune, label
from stages import teacher as stage
from stages.lib.core.outcome import Refusal
from stages.lib.models import folder, teacher
from stages.lib.params.teacher import RegNetSizes
from tests.workspace import SET, edit

SIZES = RegNetSizes(depth=6, w0=24, wa=24.0, wm=2.0, group_size=8, stem_width=16)
NAMES = ("7", "8", "9")


@pytest.fixture
def place(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of its own, which stages run in; without the watch, which is for processes of their own."""
    made = tmp_path / "project"
    shutil.copytree(project, made, symlinks=True)
    monkeypatch.chdir(made)
    monkeypatch.setattr(sys, "argv", ["stage", SET])
    for variable in ("TUTELAGE_RUNS", "TUTELAGE_RAW", "DVC_ROOT"):
        monkeypatch.delenv(variable, raising=False)
    for module in (stage, label, distill, finetune):
        monkeypatch.setattr(module, "Watch", lambda: SimpleNamespace(signum=None))
    return made


def refused(module: ModuleType, words: str) -> None:
    with pytest.raises(Refusal, match=words):
        getattr(module, "bring", lambda: None)()
        module.main()


def theirs() -> torch.nn.Module:
    torch.manual_seed(0)
    return teacher.create("regnety_002", SIZES, 3)


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def use(place: Path, source: str, digest: str, **changes: Any) -> None:
    """Name the weights in params.yaml."""
    named = {"teacher.source": source, "teacher.sha256": digest, "teacher.licence": "CC0-1.0"}
    edit(place, {**named, **{key.replace("__", "."): value for key, value in changes.items()}})


def measured(place: Path) -> float:
    """The only row of the history; what was fetched has no loss."""
    (row,) = csv.DictReader((place / "data/history/teacher.csv").open())
    assert row["loss"] == ""
    return float(row["val_top1"])


def test_teacher__from_elsewhere_is_measured_and_saved_like_a_trained_one(place: Path) -> None:
    weights = place / "data/raw/theirs.pth"
    torch.save({"model": theirs().state_dict()}, weights)
    use(place, weights.name, digest_of(weights))
    stage.bring()
    stage.main()
    model, config = folder.load(place / "data/models/teacher")
    wanted, found = theirs().state_dict(), model.state_dict()
    assert all(torch.equal(a, b) for a, b in zip(wanted.values(), found.values(), strict=True))
    assert 0 <= measured(place) <= 100
    trained = folder.describe(theirs(), "regnety_002", {}, 16, 1.0, NAMES)
    cfg = config["pretrained_cfg"]
    assert config.keys() == trained.keys() and cfg.keys() - trained["pretrained_cfg"].keys() == {"license", "notes"}
    assert cfg["license"] == "CC0-1.0" and config["num_classes"] == 3 and config["label_names"] == list(NAMES)
    assert cfg["crop_pct"] == 1.0 and cfg["input_size"] == [3, 16, 16] and cfg["interpolation"] == "bicubic"
    assert "names no classes" in " ".join(cfg["notes"]) and str(place) not in json.dumps(config)


def test_teacher__is_prepared_for_and_asked_as_its_own_config_says(place: Path) -> None:
    """Another mean and another order of classes: measured as timm alone measures it, refused by the student unless told."""
    order = ("9", "7", "8")
    source = place / "data/raw/theirs"
    model = theirs()
    prepared = {"mean": [0.1, 0.1, 0.1], "std": [0.5, 0.5, 0.5], "interpolation": "bilinear"}
    folder.save(model, source, "regnety_002", teacher.model_args(SIZES), 16, 0.75, order, prepared=prepared)
    use(place, "theirs/model.safetensors", digest_of(source / "model.safetensors"))
    refused(stage, "teacher.classes: by-name")
    edit(place, {"teacher.classes": "by-name"})
    stage.bring()
    stage.main()
    made, config = folder.load(place / "data/models/teacher")
    assert config["label_names"] == list(NAMES)
    assert config["pretrained_cfg"].items() >= {**prepared, "crop_pct": 0.75}.items()
    images = torch.randn(5, 3, 16, 16)
    torch.testing.assert_close(made(images), model.eval()(images)[:, [order.index(name) for name in NAMES]])
    refused(distill, "train.teacher_normalisation: own")
    edit(place, {"train.teacher_normalisation": "own", "train.views.epochs": 1, "train.schedule.warmup_epochs": 0})
    distill.main()
    learnt = folder.config_of(place / "data/models/student")
    assert learnt["derived_from"] == [{"model": "teacher", "licence": "CC0-1.0"}]


def test_teacher__a_kept_file_needs_no_network(place: Path) -> None:
    kept = place / "data/runs/fetched"
    kept.mkdir(parents=True)
    safetensors.torch.save_file(theirs().state_dict(), kept / "arrived")
    digest = digest_of(kept / "arrived")
    (kept / "arrived").rename(kept / digest)
    use(place, "https://host.invalid/theirs.safetensors", digest[:10])
    stage.bring()
    stage.main()
    notes = folder.config_of(place / "data/models/teacher")["pretrained_cfg"]["notes"]
    assert notes[0] == "Weights fetched from https://host.invalid/theirs.safetensors."


def test_teacher__a_name_on_timms_hub_is_fetched_and_must_fit(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the hub library's own cache, offline: a thousand classes are not three, and a name that is not there is no refusal."""
    cache = tmp_path / "hub/models--timm--regnety_002.pycls_in1k"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs/main").write_text("0" * 40)
    weights = cache / "snapshots" / ("0" * 40) / "model.safetensors"
    weights.parent.mkdir(parents=True)
    safetensors.torch.save_file(timm.create_model("regnety_002").state_dict(), weights)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    use(place, "timm/regnety_002.pycls_in1k", digest_of(weights), teacher__sizes=None)
    refused(stage, "the 3 classes of this set")
    assert (place / "data/runs/fetched" / digest_of(weights)).is_file()
    use(place, "timm/regnety_002.pycls_in1k", "0" * 64)
    refused(stage, "teacher.source: .* but 00000000")  # another file than was named
    shutil.rmtree(tmp_path / "hub")
    with pytest.raises(OSError, match="cannot be reached"):
        stage.bring()
        stage.main()


def use_transformer(place: Path, **changes: Any) -> None:
    """A tiny one; the students it teaches train for an epoch."""
    model = {"patch_size": 4, "width": 24, "depth": 2, "heads": 2}
    made = {"architecture": "vit", "sizes": None, "norm_group": None, "model": model, "drop_path": 0.1, **changes}
    brief = {"train.views.epochs": 1, "train.schedule.warmup_epochs": 0}
    edit(place, {**{f"teacher.{key}": value for key, value in made.items()}, **brief})


def test_teacher__a_transformer_is_trained_and_timm_loads_it(place: Path) -> None:
    """Its curve moves, its folder is a plain DeiT, and what it was trained with is what timm alone computes."""
    use_transformer(place)
    stage.main()
    model, config = folder.load(place / "data/models/teacher")
    assert config["architecture"] == "deit_tiny_patch16_224" and config["label_names"] == list(NAMES)
    assert config["model_args"] == {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2}
    rows = list(csv.DictReader((place / "data/history/teacher.csv").open()))
    assert len(rows) == 2 and float(rows[1]["loss"]) < float(rows[0]["loss"])
    images = torch.randn(5, 3, 16, 16)
    torch.testing.assert_close(stage.forward(model, images), model(images))


def taught(place: Path) -> list[str]:
    """The student's weights by their digest, its teacher asked beside it and then beforehand."""
    made = []
    for labels in ("live", "stored"):
        edit(place, {"train.labels": labels})
        if labels == "stored":
            label.main()
        distill.main()
        made.append(digest_of(place / "data/models/student/model.safetensors"))
    return made


def test_teacher__a_student_learns_from_a_transformer(place: Path) -> None:
    """Asked beside the student or before: the same student, bit for bit."""
    use_transformer(place)
    edit(place, {"teacher.views.epochs": 1})
    stage.main()
    made = taught(place)
    (row,) = csv.DictReader((place / "data/history/student.csv").open())
    assert float(row["distillation"]) > 0 and made[0] == made[1]


def test_teacher__a_transformer_of_sizes_that_do_not_fit_is_refused(place: Path) -> None:
    use_transformer(place, model=None)
    refused(stage, "architecture: vit needs model: a block with patch_size")
    use_transformer(place, model={"patch_size": 5, "width": 24, "depth": 2, "heads": 2})
    refused(stage, "views.image_size 16 is not a multiple of model.patch_size 5")
    use_transformer(place, model={"patch_size": 4, "width": 24, "depth": 2, "heads": 5})
    refused(stage, "width 24 is not a multiple of heads 5")


def test_distill__without_the_token_from_stored_labels_to_a_finetuned_student(place: Path) -> None:
    """One head, a plain DeiT for timm, the same student from stored as from live labels; fine-tuning asks the teacher too."""
    brief = {"epochs": 1, "image_size": 16}
    edit(
        place,
        {f"{block}.views.{key}": value for block in ("teacher", "train", "finetune") for key, value in brief.items()},
    )
    edit(
        place, {"train.schedule.warmup_epochs": 0, "finetune.schedule.warmup_epochs": 0, "finetune.distill": "as-train"}
    )
    edit(place, {"train.distillation_token": False})
    stage.main()
    made = taught(place)
    assert made[0] == made[1]
    finetune.main()
    for name in ("student", "finetuned"):
        model, config = folder.load(place / "data/models" / name)
        assert config["architecture"] == "deit_tiny_patch16_224" and not any(
            "dist" in key for key in model.state_dict()
        )
        (row,) = csv.DictReader((place / f"data/history/{name}.csv").open())
        assert float(row["distillation"]) > 0
    edit(place, {"train.distill": "none", "finetune.distill": "hard"})
    with pytest.raises(ValueError, match="needs a student with a distillation token"):
        finetune.main()
