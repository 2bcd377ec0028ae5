"""Each op equals timm's pixel for pixel; draws follow timm's distribution."""

import itertools
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from timm.data import auto_augment
from torchvision import transforms as tv

from stages.lib.core.outcome import Refusal
from stages.lib.data import randaugment
from stages.lib.data.randaugment import OPS, RandAugment, apply, draw, parse
from tests.data.replay import picture

POLICY = "rand-m9-mstd0.5-inc1"
HPARAMS = {"img_mean": (124, 116, 104), "interpolation": Image.Resampling.BICUBIC}
TIMM = auto_augment._RAND_INCREASING_TRANSFORMS
SIGNED = ["Rotate", "Color", "Contrast", "Brightness", "Sharpness", "Shear", "Translate"]
SIZES = [(64, 64), (57, 41)]


def timms(monkeypatch: pytest.MonkeyPatch, name: str, level: float, sign: int, img: Image.Image) -> bytes:
    """Pixels of timm's op at a level and sign."""
    monkeypatch.setattr(auto_augment, "_randomly_negate", lambda value: sign * value)
    operation = auto_augment.AugmentOp(name, prob=1.0, magnitude=level, hparams=dict(HPARAMS))
    return operation(img).tobytes()


BLACK = (TIMM.index("PosterizeIncreasing"), 10)  # timm raises with Pillow 13; test_posterize__no_bits_is_black instead
CASES = [case for case in itertools.product(range(15), (0, 3.3, 9, 10), (1, -1)) if case[:2] != BLACK]


@pytest.mark.parametrize(("op", "level", "sign"), CASES)
def test_ops__equal_timms(monkeypatch: pytest.MonkeyPatch, op: int, level: float, sign: int) -> None:
    for size in SIZES:
        img = picture(*size)
        assert OPS[op](img, level, sign).tobytes() == timms(monkeypatch, TIMM[op], level, sign, img)


@pytest.mark.parametrize("op", range(15))
def test_ops__sign_matters_where_timm_draws_one(op: int) -> None:
    img = picture(64, 64)
    changes = OPS[op](img, 9, 1).tobytes() != OPS[op](img, 9, -1).tobytes()
    assert changes == TIMM[op].startswith(tuple(SIGNED))


def test_ops__negative_control_other_constants_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    img = picture(64, 64)
    right = timms(monkeypatch, "Rotate", 9, 1, img)
    assert img.rotate(27, Image.Resampling.BICUBIC, fillcolor=(124, 116, 104)).tobytes() == right  # 3 degrees a level
    assert img.rotate(27, Image.Resampling.BILINEAR, fillcolor=(124, 116, 104)).tobytes() != right
    assert img.rotate(27, Image.Resampling.BICUBIC, fillcolor=(128, 128, 128)).tobytes() != right


def test_ops__negative_control_torchvision_has_another_scale() -> None:
    space = tv.RandAugment(magnitude=9)._augmentation_space(31, (64, 64))
    degrees = float(space["Rotate"][0][9])
    assert degrees == pytest.approx(9) and len(space) == 14  # a third of timm's 27 degrees
    img = picture(64, 64)
    theirs = img.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=(124, 116, 104))
    assert theirs.tobytes() != randaugment.rotate(img, 9, 1).tobytes()


def test_posterize__bits_by_hand() -> None:
    img = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).convert("RGB")
    for level, bits in [(0, 4), (2.4, 4), (2.6, 3), (5.1, 2), (7.6, 1), (9.99, 1)]:
        kept = np.unique(np.asarray(randaugment.posterize(img, level, 1)))
        assert kept.tolist() == [i * 2 ** (8 - bits) for i in range(2**bits)]


def test_posterize__no_bits_is_black() -> None:
    assert not np.asarray(randaugment.posterize(picture(9, 7), 10, 1)).any()


def test_parse() -> None:
    assert parse(POLICY) == RandAugment(9, 0.5, 2)
    assert parse("rand-m7.5-n3-inc1") == RandAugment(7.5, 0, 3)


@pytest.mark.parametrize("text", ["rand-m9-mstd0.5", "rand-m9-mstd0.5-inc0", "none", "", "augmix-m3"])
def test_parse__refuses_what_it_does_not_know(text: str) -> None:
    with pytest.raises(Refusal, match="randaugment"):
        parse(text)


def timm_draws(count: int) -> list[tuple[str, float]]:
    """(op, level) timm applied to `count` images."""
    random.seed(0)
    np.random.seed(0)
    applied: list[tuple[str, float]] = []
    transform = auto_augment.rand_augment_transform(POLICY, dict(HPARAMS))

    def recorder(name: str) -> Any:
        return lambda level, _: applied.append((name, level)) or ()

    for operation in transform.ops:
        operation.level_fn, operation.aug_fn = recorder(operation.name), lambda img, **_: img
    for _ in range(count):
        transform(Image.new("RGB", (2, 2)))
    return applied


def test_draw__has_timms_distribution() -> None:
    rng, count = np.random.default_rng(0), 6000
    steps = [draw(parse(POLICY), rng) for _ in range(count)]
    ours = [(TIMM[step.op], step.level) for image in steps for step in image]
    theirs = timm_draws(count)
    names, others = Counter(name for name, _ in ours), Counter(name for name, _ in theirs)
    assert len(names) == 15 and stats.chisquare(list(names.values())).pvalue > 1e-3
    assert stats.chi2_contingency([[names[n], others[n]] for n in TIMM]).pvalue > 1e-3
    for applied in (ours, theirs):
        assert abs(len(applied) / (2 * count) - 0.5) < 4.5 * (0.25 / (2 * count)) ** 0.5
    lengths = [sum(len(image) == n for image in steps) for n in range(3)]
    assert stats.chisquare(lengths, [count / 4, count / 2, count / 4]).pvalue > 1e-3  # gates are independent
    levels, other_levels = ([level for _, level in applied] for applied in (ours, theirs))
    assert stats.ks_2samp(levels, other_levels).pvalue > 1e-3
    assert max(levels) == 10 and abs(np.mean(np.array(levels) == 10) - 0.0228) < 0.01  # P(N(9, 0.5) > 10)
    signs = [step.sign for image in steps for step in image]
    assert stats.binomtest(signs.count(1), len(signs)).pvalue > 1e-3


def test_draw__negative_control_the_test_sees_another_std() -> None:
    rng = np.random.default_rng(0)
    levels = [step.level for _ in range(6000) for step in draw(RandAugment(9, 0.4, 2), rng)]
    assert stats.ks_2samp(levels, [level for _, level in timm_draws(6000)]).pvalue < 1e-3


def test_draw__same_op_may_come_twice() -> None:
    rng = np.random.default_rng(0)
    both = [steps for _ in range(6000) if len(steps := draw(parse(POLICY), rng)) == 2]
    same = sum(first.op == second.op for first, second in both)
    assert stats.binomtest(same, len(both), 1 / 15).pvalue > 1e-3


def test_draw__no_std_is_the_magnitude_itself() -> None:
    rng = np.random.default_rng(0)
    assert {step.level for _ in range(50) for step in draw(RandAugment(7, 0, 2), rng)} == {7.0}


def test_apply__never_raises_and_keeps_the_size() -> None:
    rng = np.random.default_rng(0)
    for _ in range(400):
        assert apply(picture(19, 16), RandAugment(9, 0.5, 2), rng).size == (19, 16)


def test_apply__is_pure() -> None:
    img, before = picture(32, 32), picture(32, 32).tobytes()
    torch.manual_seed(0)
    first = [apply(img, parse(POLICY), np.random.default_rng(seed)).tobytes() for seed in range(20)]
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    assert first == [apply(img, parse(POLICY), np.random.default_rng(seed)).tobytes() for seed in range(20)]
    assert img.tobytes() == before and len(set(first)) > 10
