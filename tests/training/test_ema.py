"""The moving average of a model."""

import copy

import pytest
import torch
from torch import nn

from stages.lib.training.ema import Ema


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def moved(module: nn.Module, by: float) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += by
        module[1].running_mean += by
        module[1].num_batches_tracked += 1
    return module


def test_ema__starts_as_a_copy() -> None:
    source = model()
    ema = Ema(source, 0.9)
    moved(source, 1.0)
    assert torch.equal(ema.state_dict()["0.weight"], model().state_dict()["0.weight"])


def test_ema__known_after_two_updates() -> None:
    source = model()
    start = copy.deepcopy(source.state_dict())
    ema = Ema(source, 0.75)
    for _ in range(2):
        ema.update(moved(source, 1.0))
    expected = 0.75 * (0.75 * 0.0 + 0.25 * 1.0) + 0.25 * 2.0
    for name, value in ema.state_dict().items():
        if name.endswith("running_var"):
            assert torch.allclose(value, start[name], rtol=1e-6)
        elif name.endswith("num_batches_tracked"):
            assert value.item() == 2
            assert value.dtype == torch.int64
        else:
            assert torch.allclose(value - start[name], torch.full_like(value, expected), atol=1e-6), name


def test_ema__covers_buffers() -> None:
    """Averaging parameters alone would leave batch norm's statistics behind."""
    source = model()
    assert set(Ema(source, 0.9).state_dict()) == set(source.state_dict())
    assert set(source.state_dict()) > {name for name, _ in source.named_parameters()}


def test_ema__half_precision_is_averaged_in_single() -> None:
    source = model().half()
    ema = Ema(source, 0.99996)
    before = ema.state_dict()["0.weight"].clone()
    ema.update(moved(source, 1.0))
    assert ema.state_dict()["0.weight"].dtype == torch.float32
    assert (ema.state_dict()["0.weight"] - before).abs().mean().item() == pytest.approx(4e-5, rel=0.05)


def test_ema__goes_on_from_a_saved_state() -> None:
    source, other = model(), moved(model(), 5.0)
    ema, resumed = Ema(source, 0.9), Ema(other, 0.9)
    ema.update(moved(source, 1.0))
    resumed.load_state_dict(copy.deepcopy(ema.state_dict()))
    for one in (ema, resumed):
        one.update(source)
    assert all(torch.equal(ema.state_dict()[name], value) for name, value in resumed.state_dict().items())


def test_ema__refuses_another_model() -> None:
    with pytest.raises(ValueError, match=r"another model.*1\.bias"):
        Ema(model(), 0.9).load_state_dict({"0.weight": torch.zeros(4, 3)})


def test_ema__its_state_loads_into_the_model() -> None:
    source = model()
    ema = Ema(source, 0.5)
    ema.update(moved(source, 1.0))
    target = model()
    target.load_state_dict(ema.state_dict())
    assert torch.equal(target.state_dict()["1.running_mean"], ema.state_dict()["1.running_mean"])
