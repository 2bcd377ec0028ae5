"""The command from end to end on a handful of tiny images. What is checked is that numbers are there, never how fast they are."""

import contextlib
import json
import math
from pathlib import Path

import pytest

from benchmarks import interleaved, memory
from benchmarks.loader import main
from benchmarks.pictures import shelve
from tests.benchmarks import jpegs

FIELDS = {"path", "ours", "reference", "ratio", "goal", "psnr_mean", "psnr_p1", "unit", "output", "ratio_min", "slices"}
QUICK = ["--cores", "1", "--seconds", "0.03", "--batch", "4"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two turns, never repeated, whatever else the machine does; affinity stays as it is."""
    monkeypatch.setattr(interleaved, "LEAST", 2)
    monkeypatch.setattr(interleaved, "TRIES", 1)
    monkeypatch.setattr("benchmarks.loader.BATCHES", 3)
    monkeypatch.setattr("benchmarks.paths.READ_BYTES", 1e5)
    monkeypatch.setattr("benchmarks.quality.CROPS", 8)
    monkeypatch.setattr("benchmarks.machine.pin", lambda _: None)
    monkeypatch.setattr("benchmarks.machine.alone", contextlib.nullcontext)  # a real run beside the tests takes minutes


def rows(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_loader__folder_gives_two_lines_a_path_with_every_field(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = "mae,mae-short-320,deit,deit-repeated,evaluation"
    folder = jpegs.folder(tmp_path / "images")
    assert main(["--images", str(folder), "--json", "--paths", paths, *QUICK]) == 0
    found = rows(capsys)
    assert [(row["path"], row["output"]) for row in found] == [
        (path, output) for path in paths.split(",") for output in ("float32", "uint8")
    ]
    for row in found:
        assert set(row) >= FIELDS
        assert (row["goal"] is None) == (row["output"] == "uint8")
        for name in ("ours", "reference", "ratio", "psnr_mean", "psnr_p1"):
            assert isinstance(row[name], float) and math.isfinite(row[name]) and row[name] > 0


def test_loader__reads_a_tar_and_prints_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--images", str(jpegs.tar(tmp_path / "a.tar")), "--paths", "read", *QUICK]) == 0
    said = capsys.readouterr()
    header, line = said.out.splitlines()
    assert header.startswith("path") and line.startswith("read")
    assert "5 JPEGs" in said.err and "repeated to fill epochs of 12" in said.err


def test_loader__reads_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shelve(jpegs.jpegs(), tmp_path / "shards").folder
    assert main(["--images", str(folder), "--paths", "evaluation", "--json", *QUICK]) == 0
    assert len(rows(capsys)) == 2


@pytest.mark.slow
def test_loader__measures_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "ROWS", (100, 5000))
    monkeypatch.setattr(memory, "_alone", lambda measured, *arguments: measured(*arguments))  # a process takes seconds
    assert main(["--images", str(jpegs.tar(tmp_path / "a.tar")), "--paths", "memory", "--json", *QUICK]) == 0
    (row,) = rows(capsys)
    extra = row["extra"]
    assert isinstance(extra, dict) and {"bytes_per_row", "slope_kb_per_epoch", "growth_mb"} <= set(extra)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--images", "nowhere"], "no such file or folder"),
        (["--images", "."], "none is a JPEG"),
        (["--images", ".", "--cores", "4096"], "lets the benchmark use"),
        (["--images", ".", "--cores", "0"], "lets the benchmark use"),
        (["--images", ".", "--paths", "mea"], "'mea' is none of mae"),
        (["--images", ".", "--seconds", "0"], "have to be above 0"),
    ],
)
def test_loader__says_what_is_wrong(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # pin() for real: it refuses before it changes anything
    monkeypatch.setattr("os.sched_setaffinity", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("no picture")
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


def test_loader__builds_shards(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.sharding.ROUNDS", 1)
    monkeypatch.setattr("benchmarks.sharding.MOST", 4)
    assert main(["--images", str(jpegs.tar(tmp_path / "a.tar")), "--paths", "build", "--json", *QUICK]) == 0
    assert [(row["path"], row["goal"]) for row in rows(capsys)] == [
        ("build-large", 2.0),
        ("build-large", None),
        ("build-small", 7.0),
        ("build-small", None),
    ]
