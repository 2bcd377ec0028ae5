"""The command from end to end with a small teacher. What is checked is that numbers are there, never how fast they are."""

import contextlib
import json

import pytest

from benchmarks import interleaved, labels

QUICK = ["--device", "cpu", "--batch", "2", "--seconds", "0.01", "--students", "tiny", "--precisions", "fp32"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """One turn of few steps, never repeated; affinity stays as it is."""
    monkeypatch.setattr(interleaved, "LEAST", 1)
    monkeypatch.setattr(interleaved, "TRIES", 1)
    monkeypatch.setattr(labels, "TEACHER", "regnety_002")
    monkeypatch.setattr("benchmarks.machine.pin", lambda _: None)
    monkeypatch.setattr("benchmarks.machine.alone", contextlib.nullcontext)


def test_labels__a_line_a_student_with_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    assert labels.main([*QUICK, "--json"]) in (0, 1)
    (line,) = capsys.readouterr().out.splitlines()
    row = json.loads(line)
    assert row["ours"] > 0 and row["reference"] > 0 and row["ratio"] > 0 and row["goal"] == 3.5
    assert "DeiT tiny at 224 px, fp32, batch 2" in row["path"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--students", "huge"], "huge"), (["--precisions", "fp8"], "fp8"), (["--batch", "3"], "has to be even")],
)
def test_labels__what_it_cannot_measure_is_refused(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert labels.main([*QUICK, *arguments]) == 2
    assert said in capsys.readouterr().err
