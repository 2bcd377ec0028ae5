"""TensorBoard shows what the page shows of a student: its views beside its curves."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stages import distill
from tests.looked_at import lay_out, main
from tests.test_evaluate import SET
from tests.workspace import edit

PLAIN = {
    "train.distill": "none",
    "train.teacher": "none",
    "train.init": "scratch",
    "train.ema_decay": 0.0,
    "train.model": {"patch_size": 4, "width": 24, "depth": 1, "heads": 2},
    "train.schedule.warmup_epochs": 0,
    "train.views.epochs": 1,
    "train.views.batch_size": 8,
    "train.views.repeats": 1,
    "train.views.mixup": 0.0,
    "train.views.cutmix": 0.0,
}


def test_distill__its_views_stand_beside_its_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_out(tmp_path)
    edit(tmp_path, PLAIN)
    main(monkeypatch, tmp_path, distill, SET)
    (folder,) = (tmp_path / "data/runs/distill").glob("*/tensorboard")
    board = EventAccumulator(str(folder))
    board.Reload()
    assert {"loss", "val_loss", "val_top1"} <= set(board.Tags()["scalars"])
    (shown,) = board.Images("views")
    page = np.asarray(Image.open(tmp_path / "data/samples/student.png"))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(shown.encoded_image_string)).convert("RGB")), page)
