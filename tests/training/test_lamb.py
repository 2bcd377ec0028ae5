"""LAMB beside numpy in double precision and beside timm's, step by step; it stands still, resumes, and refuses nothing silently."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from timm.optim import Lamb as TimmLamb
from torch import nn

from stages.lib.params.optimizer import Optimizer
from stages.lib.training import optimizer
from stages.lib.training.lamb import Lamb, trust_ratios

LR, BETAS, EPS, DECAY = 0.02, (0.9, 0.999), 1e-8, 0.05
STEPS = 12


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 5), nn.LayerNorm(5), nn.Linear(5, 3))


def gradients(step: int, network: nn.Module) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(step)
    return [torch.randn(weight.shape, generator=rng) * (1 + step) for weight in network.parameters()]


def ours(network: nn.Module, **changes: Any) -> Lamb:
    """As a recipe builds it: matrices decayed, biases and norms not."""
    block = {"name": "lamb", "lr": LR, "lr_per": 0, "weight_decay": DECAY, "decay_tokens": "none"}
    built = optimizer.build(Optimizer.model_validate({**block, **changes}), network, 0)
    assert isinstance(built, Lamb)
    for group in built.param_groups:
        group["lr"] = LR
    return built


def step(built: torch.optim.Optimizer, network: nn.Module, number: int) -> None:
    for weight, gradient in zip(network.parameters(), gradients(number, network), strict=True):
        weight.grad = gradient
    built.step()


def by_hand(network: nn.Module) -> list[np.ndarray]:
    """You et al. 2019, algorithm 2, with bias correction and decay as FusedLAMB has them; double precision."""
    weights = [weight.detach().double().numpy().copy() for weight in network.parameters()]
    means, squares = [[np.zeros_like(weight) for weight in weights] for _ in range(2)]
    for number in range(STEPS):
        for place, gradient in enumerate(gradients(number, network)):
            g, decay = gradient.double().numpy(), DECAY if gradient.ndim > 1 else 0.0
            means[place] = BETAS[0] * means[place] + (1 - BETAS[0]) * g
            squares[place] = BETAS[1] * squares[place] + (1 - BETAS[1]) * g**2
            mean, square = (
                means[place] / (1 - BETAS[0] ** (number + 1)),
                squares[place] / (1 - BETAS[1] ** (number + 1)),
            )
            update = mean / (np.sqrt(square) + EPS) + decay * weights[place]
            ratio = np.linalg.norm(weights[place]) / np.linalg.norm(update) if decay else 1.0
            weights[place] = weights[place] - LR * ratio * update
    return weights


def split(network: nn.Module) -> list[dict[str, Any]]:
    """timm's groups: matrices decayed, the rest not."""
    matrices, rest = (
        [weight for weight in network.parameters() if (weight.ndim > 1) is many] for many in (True, False)
    )
    return [{"params": matrices, "weight_decay": DECAY}, {"params": rest, "weight_decay": 0.0}]


def test_lamb__equals_numpy_in_double_precision() -> None:
    network = model()
    expected, built = by_hand(network), ours(network)
    for number in range(STEPS):
        step(built, network, number)
    for weight, wanted in zip(network.parameters(), expected, strict=True):
        np.testing.assert_allclose(weight.detach().numpy(), wanted, rtol=2e-5, atol=2e-6)


def test_lamb__equals_timms_step_by_step() -> None:
    """And another epsilon, or decay of biases, would not: the comparison sees such things."""
    mine, theirs, other = (model() for _ in range(3))
    built, control = ours(mine), ours(other, eps=0.1)
    groups = [
        {"params": [w for w in theirs.parameters() if (w.ndim > 1) is decayed], "weight_decay": DECAY * decayed}
        for decayed in (True, False)
    ]
    reference = TimmLamb(groups, lr=LR, betas=BETAS, eps=EPS, max_grad_norm=None)
    for number in range(STEPS):
        for one, network in ((built, mine), (reference, theirs), (control, other)):
            step(one, network, number)
        for weight, wanted in zip(mine.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(weight, wanted, rtol=2e-6, atol=2e-7)
    assert any((a - b).abs().max() > 1e-3 for a, b in zip(other.parameters(), theirs.parameters(), strict=True))


def test_lamb__with_the_loops_clipping_equals_timms_with_its_own() -> None:
    """FusedLAMB and timm clip at a global norm of 1 inside the optimizer; the recipe's clip_norm: 1.0 is the loop's."""
    mine, theirs = model(), model()
    built = ours(mine)
    groups = [
        {"params": [w for w in theirs.parameters() if (w.ndim > 1) is decayed], "weight_decay": DECAY * decayed}
        for decayed in (True, False)
    ]
    reference = TimmLamb(groups, lr=LR, betas=BETAS, eps=EPS, max_grad_norm=1.0)
    for number in range(STEPS):
        for weight, gradient in zip(mine.parameters(), gradients(number, mine), strict=True):
            weight.grad = gradient
        nn.utils.clip_grad_norm_(mine.parameters(), 1.0)
        built.step()
        step(reference, theirs, number)
        for weight, wanted in zip(mine.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(weight, wanted, rtol=1e-5, atol=1e-6)


def test_lamb__moves_a_decayed_weight_by_its_own_length() -> None:
    """|change| = lr * |weight|, whatever the gradient's size: what the trust ratio is for."""
    for scale in (1e-3, 1.0, 1e3):
        network = model()
        built, before = ours(network), [weight.detach().clone() for weight in network.parameters()]
        for weight, gradient in zip(network.parameters(), gradients(0, network), strict=True):
            weight.grad = gradient * scale
        built.step()
        for weight, old in zip(network.parameters(), before, strict=True):
            if weight.ndim > 1:
                assert ((weight - old).norm() / old.norm()).item() == pytest.approx(LR, rel=1e-5)


def test_trust_ratios__of_nothing_are_one() -> None:
    weights, updates = (
        [torch.zeros(3), torch.ones(4), torch.full((4,), 3.0)],
        [torch.ones(3), torch.zeros(4), torch.ones(4)],
    )
    assert [ratio.item() for ratio in trust_ratios(weights, updates)] == [1.0, 1.0, 3.0]


def test_found_inf__nothing_moves_and_the_next_step_is_as_if_there_had_been_none() -> None:
    network, undisturbed = model(), model()
    built, other = ours(network), ours(undisturbed)
    step(built, network, 0)
    step(other, undisturbed, 0)
    before, kept = copy.deepcopy(network.state_dict()), copy.deepcopy(built.state_dict()["state"])
    built.found_inf = torch.ones(())
    for weight in network.parameters():
        weight.grad = torch.full_like(weight, float("nan"))
    built.step()
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    for number, state in built.state_dict()["state"].items():
        assert all(torch.equal(kept[number][key], value) for key, value in state.items())
    built.found_inf = torch.zeros(())
    step(built, network, 1)
    step(other, undisturbed, 1)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), undisturbed.parameters(), strict=True))


def test_lamb__goes_on_from_its_state_with_the_same_bits() -> None:
    network, resumed = model(), model()
    built = ours(network)
    for number in range(4):
        step(built, network, number)
    saved = copy.deepcopy((network.state_dict(), built.state_dict()))
    again = ours(resumed)
    resumed.load_state_dict(saved[0])
    again.load_state_dict(saved[1])
    for number in range(4, 8):
        step(built, network, number)
        step(again, resumed, number)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), resumed.parameters(), strict=True))


def test_lamb__layers_rates_apply() -> None:
    network = model()
    built, before = ours(network), [weight.detach().clone() for weight in network.parameters()]
    for group in built.param_groups:
        group["lr"] = 0.0
    step(built, network, 0)
    assert all(torch.equal(old, weight) for old, weight in zip(before, network.parameters(), strict=True))
