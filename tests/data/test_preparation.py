"""Preprocessing as config.json says it, or a refusal; what is measured with it is shown in tests/test_evaluate.py."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from stages.lib.core.outcome import Refusal
from stages.lib.data.preparation import Preparation, preparation_of
from stages.lib.models import folder


def config_of(**changes: Any) -> dict[str, Any]:
    model = timm.create_model("test_vit", num_classes=2)
    config = folder.describe(model, "test_vit", {}, 16, 0.875, ("no", "yes"))
    return {**config["pretrained_cfg"], **changes}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"crop_pct": 0.5},
        {"crop_pct": 1.0, "interpolation": "bilinear"},
        {"input_size": [3, 24, 24]},
        {"mean": [0.5, 0.4, 0.3], "std": [0.25, 0.5, 0.125]},
    ],
)
def test_preparation__gives_the_pixels_timm_gives(changes: dict[str, Any]) -> None:
    config = config_of(**changes)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 29, 3), np.uint8))
    wanted = timm.data.resolve_data_config(pretrained_cfg=json.loads(json.dumps(config)))
    expected = timm.data.create_transform(**wanted, is_training=False)(image)
    found = preparation_of(config, Path("model"))
    view = found.view(image)
    assert view.dtype == np.uint8
    assert torch.equal(found.normalise(torch.from_numpy(view)[None])[0], expected)
    other = preparation_of(config_of(crop_pct=0.75, input_size=[3, *view.shape[1:]]), Path("model")).view(image)
    assert not np.array_equal(view, other)  # the control: another crop gives other pixels


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mean": [0.5]}, r"mean \[0.5\] \(three numbers\)"),
        ({"std": [0.5, 0.0, 0.5]}, r"std .* \(three numbers above 0\)"),
        ({"crop_mode": "squash"}, r"crop_mode squash \(center\)"),
        ({"interpolation": "random"}, "interpolation random"),
        ({"input_size": [1, 16, 16]}, "square RGB"),
        ({"input_size": [3, 16, 24]}, "square RGB"),
    ],
)
def test_preparation__refuses_what_it_cannot_honour(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(Refusal, match=words):
        preparation_of(config_of(**changes), Path("model"))


def test_preparation__without_words_is_what_models_are_trained_with_here() -> None:
    assert preparation_of(config_of(), Path("model")) == Preparation(16, 0.875)
