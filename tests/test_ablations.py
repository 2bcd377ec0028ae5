"""Rows of the papers' ablation tables: one `-S` override each, run for some steps by the stage itself, and what is then not there.

DeiT Table 8 (arXiv 2012.12877), MAE Table 1 (arXiv 2111.06377), DeiT III (arXiv 2204.07118); figures in docs/recipes.md. Default
suite: a few; `make test-slow`: all.
"""

import dataclasses
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
import pytest
import torch

from flows.form import Refused, Vary, combinations
from stages import distill, pretrain
from stages.lib.core import load
from stages.lib.data import colour
from stages.lib.data.batch import Batch
from stages.lib.data.batches import Stream
from stages.lib.data.randomness import Purpose, generator
from stages.lib.models import deit
from stages.lib.models.mae import MAE
from stages.lib.params.everything import Everything
from stages.lib.training import classifier, trial
from stages.lib.training.lamb import Lamb
from stages.lib.training.loop import Trained
from stages.lib.training.trial import TrialOver
from tests.conftest import ROOT
from tests.workspace import SET, edit, lay_out

STEPS = 2
DEIT = {
    "train.distill": "none",
    "train.teacher": "none",
    "train.views.repeats": 3,
    "train.views.hflip": 0.5,
    "train.views.randaugment": "rand-m9-mstd0.5-inc1",
    "train.views.erase": 0.25,
    "train.views.mixup": 0.8,
    "train.views.cutmix": 1.0,
    "train.views.mix_prob": 1.0,
    "train.views.mix_group": 8,
    "train.drop_path": 0.1,
    "train.ema_decay": 0.0,
}
"""DeiT's recipe without distillation (Table 9) on the workspace's digits."""
THIRD = {
    "train.model.layer_scale": 1e-4,
    "train.model.class_position": False,
    "train.loss": "bce",
    "train.label_smoothing": 0.0,
    "train.drop_path_shape": "constant",
    "train.views.randaugment": "none",
    "train.views.three_augment": True,
    "train.views.color_jitter": 0.3,
    "train.views.erase": 0.0,
    "train.optimizer.name": "lamb",
    "train.optimizer.clip_norm": 1.0,
}


@dataclasses.dataclass
class Seen:
    """What a stage trained with."""

    stream: Stream
    trained: Trained
    batches: list[Batch]

    @property
    def network(self) -> Any:
        return self.trained.network

    @property
    def boxes(self) -> list[bool]:
        """Of every mixing group: whether it was cut, or blended."""
        return [mix.box is not None for batch in self.batches for mix in batch.mixes]

    def steps(self) -> list[Any]:
        """What becomes of the pixels of a hundred views, after crop and flip."""
        views = [self.stream.view(16, 16, generator(0, 0, place, Purpose.AUGMENT)) for place in range(100)]
        return [step for view in views for step in view.steps]


Ran = Callable[..., Seen]


@pytest.fixture
def ran(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ran:
    """Runs a stage for a few steps by an override and keeps what it met on the way."""

    def run(stage: ModuleType, changes: dict[str, Any], override: str = "") -> Seen:
        folder = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        lay_out(folder)
        edit(folder, changes)
        if override:
            (one,) = combinations((folder / "params.yaml").read_text(), Vary(), [override])
            (folder / "params.yaml").write_text(one.params_text)
        for kind in ("index", "shards"):
            (folder / "data" / kind).symlink_to(project / "data" / kind)
        monkeypatch.chdir(folder)
        monkeypatch.setenv(trial.STEPS, str(STEPS))
        monkeypatch.setattr(sys, "argv", [stage.__name__, SET])
        return watched(stage, monkeypatch)

    return run


def watched(stage: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Seen:
    """stage.main() to the end of its trial; nothing is replaced, what passes by is noted."""
    trains = stage if stage is pretrain else classifier
    found: dict[str, Any] = {"batches": []}
    fit, batches = trains.fit, trains.batches

    def noting_fit(trained: Trained, *arguments: Any) -> Any:
        found["trained"] = trained
        return fit(trained, *arguments)

    def noting_batches(stream: Stream, *arguments: Any) -> Any:
        found["stream"] = stream
        for batch in batches(stream, *arguments):
            found["batches"].append(batch)
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(trains, "fit", noting_fit)
        patch.setattr(trains, "batches", noting_batches)
        with pytest.raises(TrialOver):
            stage.main()
    seen = Seen(**found)
    assert seen.trained.step == STEPS and all(bool(torch.isfinite(w).all()) for w in seen.network.parameters())
    return seen


def distinct(seen: Seen) -> bool:
    """Whether a batch shows each image once."""
    order, batch = seen.stream.order(0), seen.batches[0]
    return len(set(order[batch.positions.numpy()])) == len(batch.positions)


def third_ops(seen: Seen) -> set[str]:
    return {colour.OPS[step.op].__name__ for step in seen.steps()}


TABLE_8: dict[str, tuple[Callable[[Seen], bool], bool]] = {
    "train.views.randaugment=none": (lambda seen: not seen.steps(), True),
    "train.views.mixup=0": (lambda seen: all(seen.boxes) and bool(seen.boxes), True),
    "train.views.cutmix=0": (lambda seen: not any(seen.boxes) and bool(seen.boxes), True),
    "train.views.mix_prob=0": (lambda seen: not seen.boxes, True),
    "train.views.erase=0": (lambda seen: not any(batch.erasures for batch in seen.batches), True),
    "train.drop_path=0": (lambda seen: set(deit.rates(seen.network)) == {0.0}, True),
    "train.views.repeats=1": (distinct, True),
    "train.optimizer.name=sgd": (lambda seen: type(seen.trained.optimizer) is torch.optim.SGD, True),
    "train.ema_decay=0.9": (lambda seen: seen.trained.ema is not None, True),
    "train.drop_path_shape=constant": (lambda seen: len(set(deit.rates(seen.network))) == 1, False),
    "train.optimizer.name=lamb": (lambda seen: type(seen.trained.optimizer) is Lamb, False),
    "train.views.crop=simple": (lambda seen: seen.stream.view(16, 16, np.random.default_rng(0)).frame.reflected, False),
    "train.model.layer_scale=1e-4": (lambda seen: "blocks.0.ls1.gamma" in seen.network.state_dict(), False),
}
"""Override -> (what then holds, and did not before; whether it is a row of DeiT's Table 8)."""


FEW = {
    "train.views.randaugment=none",
    "train.views.cutmix=0",
    "train.drop_path=0",
    "train.optimizer.name=lamb",
    "pretrain.crop=none",
    "pretrain.masking=block",
}


def some(overrides: Iterable[str]) -> list[Any]:
    """All, those slow that are not among the few."""
    return [pytest.param(one, marks=[] if one in FEW else pytest.mark.slow) for one in overrides]


@pytest.fixture(scope="module")
def before() -> dict[str, Seen]:
    """The full recipe, run once; filled by whoever comes first."""
    return {}


@pytest.mark.parametrize("override", some(TABLE_8))
def test_deit__one_override_takes_away_what_it_names(ran: Ran, before: dict[str, Seen], override: str) -> None:
    holds, _ = TABLE_8[override]
    if "deit" not in before:
        before["deit"] = ran(distill, DEIT)
    assert holds(ran(distill, DEIT, override)) and not holds(before["deit"])


@pytest.mark.parametrize("override", [override for override, (_, row) in TABLE_8.items() if row])
def test_deit__every_row_is_one_override_of_the_preset(override: str) -> None:
    text = (ROOT / "presets/imagenet-deit-base.yaml").read_text()
    (one,) = combinations(text, Vary(), ["train.distill=none", "finetune.distill=none", override])
    load_again = Everything.model_validate(load.parse(one.params_text))
    assert load_again != Everything.model_validate(load.parse(text))


def test_deit_3__trains_with_all_that_is_its_own(ran: Ran) -> None:
    seen = ran(distill, DEIT | THIRD)
    assert third_ops(seen) == {"grayscale", "solarize", "blur", "brightness", "contrast", "saturation"}
    assert len(seen.steps()) == 400 and type(seen.trained.optimizer) is Lamb
    assert deit.rates(seen.network) == [0.1] * 4 and not any(batch.erasures for batch in seen.batches)
    assert deit.positions_of(seen.network).shape[1] == 16
    state = seen.network.state_dict()
    assert 0 < (state["blocks.0.ls1.gamma"] - 1e-4).abs().max() < 1e-2
    assert cast(Any, seen.trained.objective).base.__name__ == "binary_cross_entropy"


def mask_of(seen: Seen) -> int:
    return int(cast(MAE, seen.network).keep)


TABLE_1: dict[str, Callable[[Seen], bool]] = {
    "pretrain.mask_ratio=0.5": lambda seen: mask_of(seen) == 8,
    "pretrain.decoder.depth=1": lambda seen: len(seen.network.decoder_blocks) == 1,
    "pretrain.decoder.width=24": lambda seen: seen.network.mask_token.shape[-1] == 24,
    "pretrain.norm_pix=false": lambda seen: not cast(Any, seen.trained.objective).norm_pix,
    "pretrain.crop=none": lambda seen: one_frame(seen),
    "pretrain.crop=fixed-size": lambda seen: not one_frame(seen) and whole_images(seen),
    "pretrain.color_jitter=0.4": lambda seen: len(seen.steps()) == 300,
    "pretrain.masking=block": lambda seen: hidden_neighbours(seen) > 0.75,
    "pretrain.masking=grid": lambda seen: bool(visible_places(seen) <= {0, 2, 8, 10}),
}
"""MAE Table 1: a, b decoder; d target; e augmentation; f masking; Figure 5 the mask ratio."""


def frames(seen: Seen) -> list[Any]:
    return [seen.stream.view(40, 30, generator(0, 0, place, Purpose.AUGMENT)).frame for place in range(30)]


def one_frame(seen: Seen) -> bool:
    return len(set(frames(seen))) == 1


def whole_images(seen: Seen) -> bool:
    """Whether what is resized is never a part."""
    return {frame.box for frame in frames(seen)} == {(0, 0, 40, 30)}


def visible_places(seen: Seen) -> set[int]:
    noise = torch.cat([cast(torch.Tensor, batch.noise) for batch in seen.batches])
    return set(noise.argsort(dim=1, stable=True)[:, : mask_of(seen)].flatten().tolist())


def hidden_neighbours(seen: Seen) -> float:
    """Share of right and lower neighbours of hidden patches that are hidden as well."""
    noise = torch.cat([cast(torch.Tensor, batch.noise) for batch in seen.batches])
    mask = torch.ones_like(noise, dtype=torch.bool)
    mask.scatter_(1, noise.argsort(dim=1, stable=True)[:, : mask_of(seen)], False)
    grid = mask.reshape(-1, 4, 4)
    pairs = (grid[:, :, :-1] & grid[:, :, 1:]).sum() + (grid[:, :-1] & grid[:, 1:]).sum()
    return float(pairs / (grid[:, :, :-1].sum() + grid[:, :-1].sum()))


@pytest.mark.parametrize("override", some(TABLE_1))
def test_mae__one_override_changes_what_it_names(ran: Ran, before: dict[str, Seen], override: str) -> None:
    if "mae" not in before:
        before["mae"] = ran(pretrain, {})
    holds = TABLE_1[override]
    assert holds(ran(pretrain, {}, override)) and not holds(before["mae"])


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["train.views.three_augment=true"], "randaugment goes with neither three_augment nor color_jitter"),
        (["train.views.color_jitter=0.3"], "randaugment goes with neither three_augment nor color_jitter"),
        (["train.loss=bce"], "loss bce needs label_smoothing 0"),
        (["train.model.class_position=false", "train.init=scratch"], "needs model.class_position: true"),
        (["train.model.layer_scale=1e-4"], "init: mae needs model.layer_scale: 0"),
        (["pretrain.model.layer_scale=1e-4"], "a masked autoencoder has neither"),
        (["train.teacher=none"], "distill: hard needs teacher: teacher"),
        (["train.views.crop=simple", "train.views.image_size=8"], "image_size 8 holds no such edges"),
        (["train.views.repeats=3"], "cannot keep 3 views of an image apart"),
        (["pretrain.masking=grid", "pretrain.mask_ratio=0.5"], "grid keeps one of every 2 x 2 patches"),
        (["pretrain.masking=grid", "pretrain.image_size=12"], "even in number, not 3"),
        (["pretrain.decoder.width=50"], "multiple of 4"),
        (["data.subset=20"], "1, 5, 10, 25, 50 or 100"),
    ],
)
def test_combination__that_no_recipe_has_is_refused_in_a_sentence(overrides: list[str], said: str) -> None:
    with pytest.raises(Refused) as caught:
        combinations((ROOT / "params.yaml").read_text(), Vary(), overrides)
    assert said in str(caught.value)
