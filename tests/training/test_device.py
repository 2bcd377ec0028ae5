"""Where a model is measured."""

import pytest
import torch

from stages.lib.core.outcome import Refusal
from stages.lib.params.system import System
from stages.lib.training.device import device_of


def system(device: str, threads: int) -> System:
    values = {
        "workers": 0,
        "processes": 0,
        "prefetch": 1,
        "log_seconds": 1.0,
        "log_steps": 1,
        "checkpoint_seconds": 1.0,
    }
    return System.model_validate({"device": device, "threads": threads, "keep_checkpoints": 1, **values})


def test_device__takes_the_threads_and_full_precision() -> None:
    before = torch.get_num_threads()
    assert device_of(system("cpu", 2)) == torch.device("cpu")
    assert torch.get_num_threads() == 2
    assert not torch.backends.cudnn.allow_tf32
    torch.set_num_threads(before)


def test_device__auto_takes_what_is_here_and_cuda_refuses_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of(system("auto", 1)) == torch.device("cpu")
    with pytest.raises(Refusal, match="CUDA device is asked for and none is here"):
        device_of(system("cuda", 1))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_of(system("auto", 1)) == torch.device("cuda", 0)
