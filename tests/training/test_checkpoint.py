"""Checkpoints: whole or not at all; a damaged newest falls back to the one before, and says so."""

import logging
from pathlib import Path

import pytest
import torch

from stages.lib.training.checkpoint import Keeper

CPU = torch.device("cpu")


def keeper(folder: Path, keep: int = 2) -> Keeper:
    return Keeper(folder, every_seconds=0, keep=keep)


def test_restore__newest_of_those_kept(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        keeper(tmp_path).save(step, {"step": step, "w": torch.full((3,), float(step))})
    state = keeper(tmp_path).restore(CPU)
    assert state is not None and state["step"] == 10 and state["w"].tolist() == [10.0] * 3
    assert [path.name for path in keeper(tmp_path).all()] == ["step-0000000010.pt", "step-0000000002.pt"]


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "digest"])
def test_restore__passes_over_a_damaged_one_and_says_so(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (1, 2):
        keeper(tmp_path).save(step, {"step": step})
    newest = keeper(tmp_path).all()[0]
    data = bytearray(newest.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    if damage == "digest":
        data[-1] ^= 1
    newest.write_bytes({"cut": data[:-100], "empty": b""}.get(damage, data))
    with caplog.at_level(logging.WARNING):
        state = keeper(tmp_path).restore(CPU)
    assert state == {"step": 1}
    assert "damaged" in caplog.text and newest.name in caplog.text


def test_restore__nothing_there(tmp_path: Path) -> None:
    assert keeper(tmp_path).restore(CPU) is None


def test_save__a_full_disk_leaves_the_old_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper(tmp_path).save(1, {"step": 1})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        keeper(tmp_path).save(2, {"step": 2})
    monkeypatch.undo()
    assert keeper(tmp_path).restore(CPU) == {"step": 1}
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_keeper__clears_what_a_killed_save_left(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / ".step-0000000003.pt.99.tmp").write_bytes(b"half")
    assert keeper(tmp_path).restore(CPU) is None
    assert not list((tmp_path / "checkpoints").iterdir())
