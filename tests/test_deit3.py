"""DeiT III through the stages: killed and resumed, divided among processes, fine-tuned larger; timm loads what comes out."""

import json
import shutil
import signal
import time
from pathlib import Path

import pytest
import timm
import torch

from stages.lib.core import files
from stages.lib.models import deit, folder
from tests.test_ablations import DEIT, THIRD
from tests.test_ranks import ROUNDING, STUDENT, apart, copy, follow, same_curve
from tests.workspace import SET, edit, run, start

pytestmark = pytest.mark.slow
CHANGES = DEIT | THIRD | {"train.views.epochs": 3, "train.schedule.warmup_epochs": 1, "train.optimizer.lr": 4e-3}
MODEL = Path("data/models/student")


@pytest.fixture(scope="module")
def third(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose student is a DeiT III, trained undisturbed by one process."""
    made = copy(project, tmp_path_factory.mktemp("third") / "p")
    edit(made, CHANGES | {"train.optimizer.lr_per": 0, "system.ranks": 1})
    run(made, "stages.distill", SET)
    return made


def fresh(third: Path, to: Path) -> Path:
    """As if it had never been trained."""
    made = copy(third, to)
    shutil.rmtree(made / MODEL)
    shutil.rmtree(made / "data/runs")
    return made


def test_distill__killed_in_the_middle_it_ends_with_the_same_bits(third: Path, tmp_path: Path) -> None:
    """LAMB's averages and steps are in the checkpoint."""
    again = fresh(third, tmp_path / "p")
    process = start(again, "stages.distill", SET)
    follow(process, "step 5 of")
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.5)
    assert "continuing after step" in run(again, "stages.distill", SET)
    assert files.sha256(again / STUDENT) == files.sha256(third / STUDENT)


def test_distill__weights_divided_among_two_processes_are_one_to_rounding(third: Path, tmp_path: Path) -> None:
    """LAMB's trust ratios are of whole weights, whoever holds which part."""
    two = fresh(third, tmp_path / "p")
    edit(two, {"system.ranks": 2, "system.shard_weights": True})
    run(two, "stages.distill", SET)
    assert same_curve(third, two, "student") and 0 < apart(third, two, STUDENT) < ROUNDING


def test_distill__by_two_whole_processes_is_one_to_rounding(third: Path, tmp_path: Path) -> None:
    two = fresh(third, tmp_path / "p")
    edit(two, {"system.ranks": 2})
    run(two, "stages.distill", SET)
    assert same_curve(third, two, "student") and 0 < apart(third, two, STUDENT) < ROUNDING


def test_finetune__larger_with_stochastic_depth_and_timm_loads_it_alone(third: Path, tmp_path: Path) -> None:
    made = copy(third, tmp_path / "p")
    edit(
        made,
        {"finetune.mode": "train", "finetune.drop_path": 0.2, "finetune.drop_path_shape": "constant", "finetune.views.epochs": 1,
         "finetune.schedule.warmup_epochs": 0},
    )  # fmt: skip
    run(made, "stages.finetune", SET)
    place = made / "data/models/finetuned"
    config = json.loads((place / "config.json").read_text())
    assert config["architecture"] == "deit3_small_patch16_224" and config["model_args"]["init_values"] == 1e-4
    model = timm.create_model(f"local-dir:{place}", pretrained=True).eval()
    assert deit.sizes(model).layer_scale == 1e-4 and not deit.sizes(model).class_position
    images = torch.randn(2, 3, 24, 24)
    ours, _ = folder.load(place)
    assert torch.equal(model(images), ours(images))
    assert torch.allclose(deit.mean_logits(ours, images), model(images), atol=1e-5)  # type: ignore[arg-type]
