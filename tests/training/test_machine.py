"""A run keeps the machine's choices of its first start, or is refused."""

import logging
import re
from pathlib import Path

import pytest
import torch

from stages.lib.core.outcome import Refusal
from stages.lib.core.runs import Run
from stages.lib.training import machine
from stages.lib.training.machine import prepare
from tests.training.test_device import system


@pytest.fixture(autouse=True)
def threads_afterwards():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_machine__a_resumed_run_keeps_its_first_threads(tmp_path: Path) -> None:
    run = Run(tmp_path, "a")
    assert prepare(run, system("cpu", 1)) == torch.device("cpu")
    prepare(run, system("cpu", 2))
    assert torch.get_num_threads() == 1
    other = tmp_path / "b"
    other.mkdir()
    prepare(Run(other, "b"), system("cpu", 2))  # control: a new run takes what it is given
    assert torch.get_num_threads() == 2


def test_machine__a_run_begun_on_a_gpu_does_not_go_on_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    run = Run(tmp_path, "a")
    run.recall("machine", {"device": "cuda", "threads": 1})
    with pytest.raises(Refusal, match=f"remove {tmp_path}"):
        prepare(run, system("auto", 1))
    with pytest.raises(Refusal, match=r"system\.device to cpu or auto\.$"):
        prepare(Run(tmp_path, "a"), system("cuda", 1))


def test_machine__another_torch_is_refused_and_the_same_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path, "a")
    prepare(run, system("cpu", 1))
    prepare(run, system("cpu", 1))  # control
    began = re.escape(torch.__version__)
    monkeypatch.setattr(torch, "__version__", "99.0")
    with pytest.raises(Refusal, match=rf"began with torch {began}, and torch 99\.0 is installed.*remove {tmp_path}"):
        prepare(run, system("cpu", 1))


def test_machine__another_processor_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody can go on with the bits of a processor that is not here, and a team's workers differ: said, not refused."""
    run = Run(tmp_path, "a")
    with caplog.at_level(logging.WARNING):
        prepare(run, system("cpu", 1))
        prepare(run, system("cpu", 1))
        assert not caplog.messages
        monkeypatch.setattr(machine, "name_of", lambda _: "an abacus")
        prepare(run, system("cpu", 1))
    assert "goes on on an abacus: last bits may differ" in caplog.text
