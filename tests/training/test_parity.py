"""The parity gate on real images: what it lets through, and every fault of preparation or weights it must not."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.data import resolve_model_data_config

from stages import export
from stages.lib.core.outcome import Refusal
from stages.lib.data.index import read_index
from stages.lib.models import folder, outputs
from stages.lib.training import parity
from stages.lib.training.parity import Candidate
from tests import test_evaluate as small


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of 46 images and a distilled student."""
    made = tmp_path_factory.mktemp("parity")
    small.write_set(made)
    small.save_student(made)
    return made


def proven(place: Path, words: dict[str, Any] | None = None, images: int = 37, **changes: torch.Tensor) -> float:
    """Largest difference of the student, prepared for and weighted as told, from the student itself."""
    model = place / "data/models/student"
    network = folder.load(model)[0]
    said = {**export.described(network), **(words or {})}
    network.load_state_dict({**network.state_dict(), **changes})
    other = Candidate("other", parity.documented(said), outputs.Outputs(network).eval(), outputs.names(network))
    index = read_index(place / f"data/index/{small.SET}.parquet", "val")
    shards = place / f"data/shards/{small.SET}"
    return parity.prove(export.own(model), [other], index, shards, images, 1e-4)["other"]


def test_prove__the_same_model_is_equal(place: Path) -> None:
    assert proven(place) <= 1e-5


FAULTS = {
    "mean": {"mean": (0.5, 0.5, 0.5)},
    "one channel's mean": {"mean": (0.485, 0.456, 0.416)},
    "standard deviation": {"std": (0.25, 0.25, 0.25)},
    "channel order": {"channels": "BGR"},
    "crop": {"crop_pct": 1.0},
    "crop mode": {"crop_mode": "squash"},
    "interpolation": {"interpolation": "bilinear"},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_prove__wrong_words_on_preprocessing_are_caught(place: Path, fault: str) -> None:
    with pytest.raises(Refusal, match=r"of 37 images \d+ differ in .*The worst is val/\d\d\d"):
        proven(place, FAULTS[fault])


def test_prove__a_small_change_of_a_weight_is_caught_and_the_image_named(place: Path) -> None:
    bias = folder.state(place / "data/models/student")["head_dist.bias"]
    bias[3] += 0.0002
    with pytest.raises(Refusal, match=r"37 differ in distillation_logits by more than 0.0001"):
        proven(place, **{"head_dist.bias": bias})
    bias[3] -= 0.00015  # within the tolerance
    assert 4e-5 < proven(place, **{"head_dist.bias": bias}) < 1e-4


def test_compare__names_the_worst_image() -> None:
    wanted = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], np.float32)
    keys, got = ["a", "b", "c"], copy.deepcopy(wanted)
    assert parity.compare("x", "y", got, wanted, keys, 1e-4, True) == 0
    got[1, 0] += 0.5
    with pytest.raises(Refusal, match=r"of 3 images 1 differ.*The worst is b, which differs by 0.5"):
        parity.compare("x", "y", got, wanted, keys, 1e-4, True)
    got[2, 1] = np.nan
    with pytest.raises(Refusal, match=r"2 differ.*The worst is c"):
        parity.compare("x", "y", got, wanted, keys, 1e-4, True)


def test_compare__another_class_is_no_match_however_close() -> None:
    wanted, got = np.array([[0.5, 0.50001]], np.float32), np.array([[0.50001, 0.5]], np.float32)
    with pytest.raises(Refusal, match=r"0 differ in y by more than 0.0001, and 1 get another class"):
        parity.compare("x", "y", got, wanted, ["a"], 1e-4, True)
    assert parity.compare("x", "y", got, wanted, ["a"], 1e-4, False) < 1e-4  # features have no classes


def test_prove__other_outputs_are_refused(place: Path) -> None:
    own = export.own(place / "data/models/student")
    other = Candidate("other", own.prepare, lambda images: own.run(images)[:1], ("class_logits",))
    index = read_index(place / f"data/index/{small.SET}.parquet", "val")
    with pytest.raises(Refusal, match="has the outputs class_logits, not class_logits, distillation_logits"):
        parity.prove(own, [other], index, place / f"data/shards/{small.SET}", 4, 1e-4)


def test_documented__is_timms_own_transform(place: Path) -> None:
    network = folder.load(place / "data/models/student")[0]
    assert (
        export.described(network).items()
        >= {
            key: value for key, value in resolve_model_data_config(network).items() if key in ("mean", "crop_pct")
        }.items()
    )
