"""LARS: a step by hand, many against the rule written out in numpy, and what must leave everything as it was."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from stages.lib.training.lars import Lars


def layer(weight: list[list[float]], bias: list[float]) -> nn.Linear:
    made = nn.Linear(len(weight[0]), len(bias))
    with torch.no_grad():
        made.weight.copy_(torch.tensor(weight))
        made.bias.copy_(torch.tensor(bias))
    return made


def step(lars: Lars, module: nn.Linear, weight: list[list[float]], bias: list[float], rate: float) -> None:
    module.weight.grad, module.bias.grad = torch.tensor(weight), torch.tensor(bias)
    for group in lars.param_groups:
        group["lr"] = rate
    lars.step()


def test_step__by_hand() -> None:
    """|w| = 5, |g| = 10: the step is 0.01 * 5 / 10 = 0.005 of the gradient, times the rate; the bias takes plain momentum."""
    module = layer([[3.0, 4.0]], [1.0])
    lars = Lars(module.parameters(), momentum=0.9, weight_decay=0.0, trust=0.01)
    step(lars, module, [[6.0, 8.0]], [2.0], 2.0)
    assert module.weight.tolist() == [pytest.approx([3.0 - 2 * 0.03, 4.0 - 2 * 0.04])]
    assert module.bias.tolist() == pytest.approx([1.0 - 2 * 2.0])
    step(lars, module, [[0.0, 0.0]], [0.0], 1.0)  # momentum alone: 0.9 of what was added, at the new rate
    assert module.weight.tolist() == [pytest.approx([3.0 - 2 * 0.03 - 0.9 * 0.03, 4.0 - 2 * 0.04 - 0.9 * 0.04])]
    assert module.bias.tolist() == pytest.approx([1.0 - 4.0 - 0.9 * 2.0])


def test_step__weights_of_zero_length_take_the_gradient_as_it_is() -> None:
    module = layer([[0.0, 0.0]], [0.0])
    step(Lars(module.parameters(), 0.0, 0.0, 0.001), module, [[1.0, -2.0]], [0.0], 0.5)
    assert module.weight.tolist() == [[-0.5, 1.0]]


def written_out(weights: list[np.ndarray], gradients: list[list[np.ndarray]], rates: list[float]) -> list[np.ndarray]:
    """recipes: MAE util/lars.py in words, momentum 0.9, decay 0.1, trust 0.02, in double precision."""
    weights = [weight.astype(np.float64) for weight in weights]
    kept = [np.zeros_like(weight) for weight in weights]
    for rate, row in zip(rates, gradients, strict=True):
        for n, gradient in enumerate(row):
            gradient = gradient.astype(np.float64)
            if weights[n].ndim > 1:
                gradient = gradient + 0.1 * weights[n]
                mine, theirs = np.sqrt((weights[n] ** 2).sum()), np.sqrt((gradient**2).sum())
                gradient = gradient * (0.02 * mine / theirs if mine > 0 and theirs > 0 else 1.0)
            kept[n] = 0.9 * kept[n] + gradient
            weights[n] = weights[n] - rate * kept[n]
    return weights


def test_steps__agree_with_the_rule_written_out_and_go_on_from_a_checkpoint() -> None:
    torch.manual_seed(0)
    module = nn.Linear(6, 3)
    rates = [0.5, 2.0, 6.4, 1.0, 0.1]
    gradients = [[torch.randn(3, 6).numpy(), torch.randn(3).numpy()] for _ in rates]
    expected = written_out(
        [module.weight.detach().numpy().copy(), module.bias.detach().numpy().copy()], gradients, rates
    )
    lars = Lars(module.parameters(), 0.9, 0.1, 0.02)
    for n, (rate, row) in enumerate(zip(rates, gradients, strict=True)):
        if n == 3:  # another process goes on
            state, module = copy.deepcopy(lars.state_dict()), copy.deepcopy(module)
            lars = Lars(module.parameters(), 0.9, 0.1, 0.02)
            lars.load_state_dict(state)
        step(lars, module, row[0].tolist(), row[1].tolist(), rate)
    for ours, theirs in zip(module.parameters(), expected, strict=True):
        assert np.abs(ours.detach().numpy() - theirs).max() < 1e-5
    forgotten = Lars(module.parameters(), 0.9, 0.1, 0.02)  # negative control: without its momentum it goes elsewhere
    other = copy.deepcopy(module)
    step(lars, module, gradients[0][0].tolist(), gradients[0][1].tolist(), 1.0)
    step(Lars(other.parameters(), 0.9, 0.1, 0.02), other, gradients[0][0].tolist(), gradients[0][1].tolist(), 1.0)
    assert not torch.allclose(module.bias, other.bias) and not forgotten.state


def test_found_inf__stands_still() -> None:
    """As a fused optimizer does: what the loop asks of one on a GPU."""
    module = layer([[3.0, 4.0]], [1.0])
    lars = Lars(module.parameters(), 0.9, 0.0, 0.01)
    lars.found_inf = torch.zeros(())
    step(lars, module, [[6.0, 8.0]], [2.0], 1.0)
    before, momentum = copy.deepcopy(module.state_dict()), copy.deepcopy(lars.state_dict())
    lars.found_inf = torch.ones(())
    step(lars, module, [[float("nan"), 8.0]], [float("inf")], 1.0)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    after = lars.state_dict()
    assert all(torch.equal(momentum["state"][n]["momentum"], after["state"][n]["momentum"]) for n in (0, 1))
