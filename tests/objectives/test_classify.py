"""Soft and binary cross-entropy by hand; targets that follow the mixing; stochastic depth only in training."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from stages.lib.data.batch import Batch
from stages.lib.data.erasing import Erasure
from stages.lib.data.mixing import Mix
from stages.lib.data.normalise import normalise
from stages.lib.objectives.classify import Classify, binary_cross_entropy, soft_cross_entropy, targets_of


def batch_of(labels: list[int], mixes: tuple[Mix, ...] = (), keep: torch.Tensor | None = None) -> Batch:
    """Random 8 x 8 images with these labels."""
    images = torch.randint(256, (len(labels), 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Batch(images, torch.tensor(labels), torch.arange(len(labels)), keep=keep, mixes=mixes)


def test_soft_cross_entropy__by_hand() -> None:
    """Logits ln 1, ln 3: probabilities 1/4, 3/4; target 0.4, 0.6; the mean over a batch of two equal rows."""
    logits = torch.tensor([[0.0, math.log(3)]] * 2, dtype=torch.float64)
    wanted = -(0.4 * math.log(0.25) + 0.6 * math.log(0.75))
    assert abs(soft_cross_entropy(logits, torch.tensor([[0.4, 0.6]] * 2)).item() - wanted) < 1e-7


def test_soft_cross_entropy__smoothed_one_hot_is_torchs_label_smoothing() -> None:
    """An independent implementation of the same convention (smoothing shared over all classes)."""
    logits, batch = torch.randn(4, 7), batch_of([0, 6, 3, 3])
    wanted = functional.cross_entropy(logits, batch.labels, label_smoothing=0.1)
    torch.testing.assert_close(soft_cross_entropy(logits, targets_of(batch, 7, 0.1)), wanted)


def test_binary_cross_entropy__every_target_above_zero_is_a_full_positive() -> None:
    """Two classes of a mixed image are positives, whatever their shares; mean over B * C, not sum."""
    logits = torch.tensor([[0.0, 2.0, -1.0]], dtype=torch.float64)
    sigmoid = [1 / (1 + math.exp(-x)) for x in (0.0, 2.0, -1.0)]
    wanted = -(math.log(sigmoid[0]) + math.log(sigmoid[1]) + math.log(1 - sigmoid[2])) / 3
    shares = torch.tensor([[0.3, 0.7, 0.0]], dtype=torch.float64)
    assert abs(binary_cross_entropy(logits, shares).item() - wanted) < 1e-12
    assert abs(functional.binary_cross_entropy_with_logits(logits, shares).item() - wanted) > 0.1


def test_targets__each_group_by_its_own_mix() -> None:
    """Six images in two groups of three: lambda 0.25 pairs 0 with 2, the second group is unmixed."""
    targets = targets_of(batch_of([0, 1, 2, 3, 0, 1], (Mix(0.25, None), Mix(1.0, None))), 4, 0.0)
    wanted = [[0.25, 0, 0.75, 0], [0, 1, 0, 0], [0.75, 0, 0.25, 0], [0, 0, 0, 1], [1, 0, 0, 0], [0, 1, 0, 0]]
    assert targets.tolist() == wanted and targets.dtype == torch.float32


def test_targets__unmixed_and_smoothed() -> None:
    """0.1 over 4 classes: 0.925 and 0.025."""
    torch.testing.assert_close(targets_of(batch_of([2]), 4, 0.1), torch.tensor([[0.025, 0.025, 0.925, 0.025]]))


def test_classify__sees_normalised_erased_mixed_pixels() -> None:
    """The model's input is the batch after all three; the loss goes with the mixed labels."""
    seen = []

    def logits_of(model: nn.Module, pixels: torch.Tensor, _: torch.Tensor | None) -> torch.Tensor:
        seen.append(pixels)
        return model(pixels.flatten(1))

    mix = Mix(0.25, None)
    plain = batch_of([0, 1], (mix,))
    noise = np.full((3, 2, 2), 9.0, np.float32)
    batch = Batch(plain.images, plain.labels, plain.positions, erasures=((1, Erasure(3, 4, noise)),), mixes=(mix,))
    model = nn.Linear(192, 3)
    loss = Classify(model, logits_of, 3, 0.1)(batch)["loss"]
    clean = normalise(batch.images)
    clean[1, :, 3:5, 4:6] = 9.0
    torch.testing.assert_close(seen[0], 0.25 * clean + 0.75 * clean.flip(0))
    torch.testing.assert_close(loss, soft_cross_entropy(model(seen[0].flatten(1)), targets_of(batch, 3, 0.1)))


@pytest.mark.parametrize("training", [True, False])
def test_classify__stochastic_depth_only_in_training(training: bool) -> None:
    """The loader's numbers reach the model in train mode, and not in eval mode."""
    keep, seen = torch.rand(2, 4, 2), []

    def logits_of(model: nn.Module, pixels: torch.Tensor, numbers: torch.Tensor | None) -> torch.Tensor:
        seen.append(numbers)
        return model(pixels.flatten(1))

    Classify(nn.Linear(192, 3), logits_of, 3, 0.0).train(training)(batch_of([0, 1], keep=keep))
    assert (seen[0] is keep) if training else (seen[0] is None)
