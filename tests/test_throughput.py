"""How fast an exported model answers: what is counted, what is written, and what a machine too small for a batch is told."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from stages import throughput
from stages.lib.core.outcome import Refusal
from stages.lib.params.precision import Precision
from stages.lib.training import speed
from tests.looked_at import lay_out
from tests.test_evaluate import save_student

KEYS = {"model", "architecture", "image_size", "parameters", "macs", "machine", "rows"}


class Doing(nn.Module):
    """A network whose forward pass is anything."""

    def __init__(self, do: Callable[[], torch.Tensor]) -> None:
        super().__init__()
        self.do, self.weight = do, nn.Parameter(torch.zeros(1))

    def forward(self, _images: torch.Tensor) -> torch.Tensor:
        return self.do()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An exported student; five short passes of each batch size."""
    lay_out(tmp_path)
    save_student(tmp_path)
    (tmp_path / "data/exported").mkdir()
    shutil.copytree(tmp_path / "data/models/student", tmp_path / "data/exported/student")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUTELAGE_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(speed, "REPEATS", 5)
    return tmp_path


def main(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["throughput", *words])
    throughput.main()


def test_throughput__writes_what_it_prints(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main(monkeypatch, "student", "--batch-sizes", "1,8")
    found = json.loads((project / "runs/throughput/student.json").read_text())
    assert found.keys() == KEYS and found["model"] == "student" and found["image_size"] == 16
    # patch embedding, two blocks of 18 tokens, two heads: 16*24*48 + 2*(12*18*24**2 + 2*18**2*24) + 2*24*7
    assert found["macs"] == 16 * 24 * 48 + 2 * (12 * 18 * 24**2 + 2 * 18**2 * 24) + 2 * 24 * 7
    assert [(row["precision"], row["batch_size"]) for row in found["rows"]] == [("fp32", 1), ("fp32", 8)]
    for row in found["rows"]:
        assert 0 < row["slowest"] <= row["images_per_second"] and row["repeats"] == 5 and row["peak_bytes"] > 1e7
    printed = capsys.readouterr().out
    assert f"{found['parameters']:,} parameters" in printed
    assert all(f"{row['images_per_second']:.1f}" in printed for row in found["rows"])
    assert {"device", "threads", "torch", "kind"} <= found["machine"].keys() and found["machine"]["kind"] == "cpu"


def test_throughput__a_batch_too_large_is_a_row_and_not_the_end(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = speed.measured

    def short(network: nn.Module, size: int, batch_size: int, precision: Precision) -> speed.Speed | None:
        greedy = Doing(lambda: torch.empty(2**50))  # four petabytes
        return measured(greedy if batch_size == 4 else network, size, batch_size, precision)

    monkeypatch.setattr(speed, "measured", short)
    main(monkeypatch, "--batch-sizes", "4,2")
    rows = json.loads((project / "runs/throughput/student.json").read_text())["rows"]
    assert rows[0] == {"precision": "fp32", "batch_size": 4, "failed": "out of memory"}
    assert rows[1]["images_per_second"] > 0
    assert "out of memory" in capsys.readouterr().out


def test_speed__another_error_is_not_taken_for_want_of_memory() -> None:
    def fail() -> torch.Tensor:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        speed.measured(Doing(fail), 8, 1, "fp32")


def test_speed__is_batch_size_over_the_median_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Known answer: passes of 3, 1, 2, 8 and 2 s of a clock that is set; what warms up does not count."""
    spent = iter([100.0] * speed.WARM + [3.0, 1.0, 2.0, 8.0, 2.0])
    monkeypatch.setattr(speed, "REPEATS", 5)
    monkeypatch.setattr(speed, "_timed", lambda *_: next(spent))
    found = speed.measured(nn.Linear(1, 1), 8, 64, "fp32")
    assert found is not None
    assert (found.images_per_second, found.slowest, found.repeats) == (32.0, 8.0, 5)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["teacher"], "exported are: student"),
        (["--batch-sizes", "1,x"], "whole numbers with commas"),
        (["--batch-sizes"], "whole numbers with commas"),
        (["--batch-sizes", "0"], "at least one image"),
        (["--fast"], "--fast is not known"),
    ],
)
def test_throughput__says_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    (tmp_path / "data/exported/student").mkdir(parents=True)
    (tmp_path / "data/exported/student/config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Refusal, match=said):
        main(monkeypatch, *words)
