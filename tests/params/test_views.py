"""Pixels: ranges, groups, RandAugment's string."""

from typing import Any

import pytest
from pydantic import ValidationError

from stages.lib.params.views import RANDAUGMENT, Views

FEW = {"seed": 0, "epochs": 1, "batch_size": 128, "image_size": 32}


def views(**changes: Any) -> Views:
    return Views.model_validate({**FEW, **changes})


def test_views__defaults_mix_nothing() -> None:
    assert not views().mixes
    assert views(mixup=0.8).mixes
    assert views(cutmix=1.0).mixes
    assert not views(cutmix=1.0, mix_prob=0.0).mixes


@pytest.mark.parametrize("text", ["none", "rand-m9-mstd0.5-inc1", "rand-m5-n3-mstd1-inc1", "rand-m7.5-inc1"])
def test_randaugment__known(text: str) -> None:
    assert views(randaugment=text).randaugment == text


@pytest.mark.parametrize("text", ["rand-m9-mstd0.5", "rand-m9-inc1-mstd0.5", "augmix-m3", "rand", "", "rand-m9-inc1 "])
def test_randaugment__unknown(text: str) -> None:
    with pytest.raises(ValidationError, match="neither none nor like rand-m9"):
        views(randaugment=text)


def test_randaugment__a_uniform_level_is_refused_before_anything_is_spent() -> None:
    with pytest.raises(ValidationError, match="above 100 mstd"):
        views(randaugment="rand-m9-mstd101-inc1")
    assert views(randaugment="rand-m9-mstd100-inc1")


def test_randaugment__parts() -> None:
    found = RANDAUGMENT.fullmatch("rand-m9-n3-mstd0.5-inc1")
    assert found
    assert found.group("m", "n", "std") == ("9", "3", "0.5")


@pytest.mark.parametrize("scale", [[0.0, 1.0], [0.9, 0.2], [0.1, 1.1]])
def test_scale__is_a_range_of_shares(scale: list[float]) -> None:
    with pytest.raises(ValidationError, match="scale"):
        views(scale=scale)


@pytest.mark.parametrize(("group", "repeats", "fits"), [(32, 3, True), (64, 2, True), (64, 3, False), (128, 1, True)])
def test_groups__keep_views_of_an_image_apart(group: int, repeats: int, fits: bool) -> None:
    """batch / group groups hold distinct images only if there are at least `repeats` of them."""
    if fits:
        views(mixup=0.8, mix_group=group, repeats=repeats)
        return
    with pytest.raises(ValidationError, match=f"take mix_group at most {128 // repeats}"):
        views(mixup=0.8, mix_group=group, repeats=repeats)
    views(mixup=0.0, mix_group=group, repeats=repeats)  # without mixing there is nothing to keep apart


@pytest.mark.parametrize("group", [33, 48])
def test_groups__are_even_and_whole(group: int) -> None:
    with pytest.raises(ValidationError, match="must be even and divide batch_size 128"):
        views(cutmix=1.0, mix_group=group)


def test_deit_order__deals_whole_groups_to_its_replicas() -> None:
    views(order="deit", repeats=3, replicas=4, cutmix=1.0, mix_group=32)
    with pytest.raises(ValidationError, match="batch_size 128 is not a multiple of replicas 5"):
        views(order="deit", replicas=5)
    with pytest.raises(ValidationError, match="mix_group 64 must divide one replica's batch 32"):
        views(order="deit", replicas=4, cutmix=1.0, mix_group=64)


@pytest.mark.parametrize(
    "change",
    [
        {"hflip": True},
        {"hflip": "0.5"},
        {"epochs": 1.0},
        {"epochs": 0},
        {"seed": -1},
        {"seed": 2**32},
        {"mixup": float("nan")},
        {"cutmix_box": "timm"},
        {"colour": 0.4},
    ],
)
def test_views__strict(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        views(**change)
