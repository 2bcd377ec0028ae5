"""Checkpoints: whole or not at all; a damaged newest falls back to the one before, and says so; what saving may cost."""

import errno
import io
import logging
import os
import random
import tracemalloc
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.lib.training import checkpoint
from stages.lib.training.checkpoint import DIGEST, Keeper
from tests.forks import Forks
from tests.training.faults import VALUES, state

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


def two(folder: Path) -> tuple[Path, bytes]:
    """Checkpoints after steps 1 and 2; the second, and what is in it."""
    for step in (1, 2):
        keeper(folder).save(step, {"step": step, "w": torch.full((200,), float(step)), "names": ["a", "b"]})
    newest = keeper(folder).all()[0]
    return newest, newest.read_bytes()


def the_one_before(folder: Path, damaged: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """With these bytes in place of the newest, the first is found, it is said, and the damaged file is kept aside."""
    newest = folder / "checkpoints" / "step-0000000002.pt"
    newest.write_bytes(damaged)
    caplog.clear()
    state = keeper(folder).restore(CPU)
    assert state is not None and state["step"] == 1 and bool((state["w"] == 1).all())
    aside = newest.with_name(f"damaged-{newest.name}")
    assert str(newest) in caplog.text and "is damaged" in caplog.text and aside.name in caplog.text
    assert not newest.exists() and aside.read_bytes() == damaged


def test_restore__cut_at_100_offsets_the_one_before_is_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, whole = two(tmp_path)
    edges = [0, 1, DIGEST - 1, DIGEST, DIGEST + 1, len(whole) - DIGEST - 1, len(whole) - DIGEST, len(whole) - 1]
    for offset in edges + random.sample(range(2, len(whole) - 2), 92):
        the_one_before(tmp_path, whole[:offset], caplog)
    (tmp_path / "checkpoints" / "step-0000000002.pt").write_bytes(whole)  # control: uncut it is found again
    assert (keeper(tmp_path).restore(CPU) or {})["step"] == 2


def test_restore__a_bit_flipped_at_100_places_the_one_before_is_found(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, whole = two(tmp_path)
    for place in random.sample(range(len(whole) - DIGEST), 90) + random.sample(
        range(len(whole) - DIGEST, len(whole)), 10
    ):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << random.randrange(8)
        the_one_before(tmp_path, bytes(flipped), caplog)


@pytest.mark.parametrize(("fault", "found"), [(errno.EIO, 1), (errno.EACCES, None)])
def test_restore__on_a_bad_sector_the_one_before_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: int, found: int | None
) -> None:
    """Control: where reading is only forbidden, a person can help, and nothing is set aside."""
    two(tmp_path)
    opened = Path.open

    def unreadable(self: Path, *arguments: Any, **named: Any) -> Any:
        if self.name == "step-0000000002.pt":
            raise OSError(fault, os.strerror(fault), str(self))
        return opened(self, *arguments, **named)

    monkeypatch.setattr(Path, "open", unreadable)
    if found:
        assert (keeper(tmp_path).restore(CPU) or {})["step"] == found
        return
    with pytest.raises(PermissionError):
        keeper(tmp_path).restore(CPU)
    assert len(keeper(tmp_path).all()) == 2


def test_restore__without_the_sum_a_flipped_bit_would_be_loaded(tmp_path: Path) -> None:
    """Negative control: torch notices nothing, so it is our sum that the tests above see."""
    _, whole = two(tmp_path)
    flipped = bytearray(whole[:-DIGEST])
    flipped[flipped.index(b"\x00\x00\x00\x40" * 200) + 3] ^= 1  # of the first value
    state = torch.load(io.BytesIO(bytes(flipped)), weights_only=True)
    assert state["step"] == 2 and not bool((state["w"] == 2).all())


def test_restore__all_damaged_starts_over_loudly_and_keeps_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    two(tmp_path)
    for path in keeper(tmp_path).all():
        path.write_bytes(b"nothing")
    assert keeper(tmp_path).restore(CPU) is None
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING", "ERROR"]
    assert "NO CHECKPOINT IS LEFT that verifies, of 2" in caplog.text and "training starts over" in caplog.text
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["damaged-step-0000000001.pt", "damaged-step-0000000002.pt"]
    caplog.clear()
    assert keeper(tmp_path).restore(CPU) is None and not caplog.records  # said once


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_save__a_damaged_one_does_not_count_as_kept(tmp_path: Path, keep: int) -> None:
    """It has the highest number: counted as the newest, it would push out the only good one that was just written."""
    for step in (1, 2, 3, 4):
        keeper(tmp_path, keep=5).save(step, {"step": step})
    (tmp_path / "checkpoints" / "step-0000000004.pt").write_bytes(b"torn")
    one = keeper(tmp_path, keep)
    assert one.restore(CPU) == {"step": 3}
    for step in (3, 2):  # others would have come to 4 sooner; what counts is that it is less than the damaged one's
        one.save(step, {"step": step})
        assert step in [int(path.stem[5:]) for path in one.all()] or keep < 2
    one.save(3, {"step": 3, "again": True})
    assert keeper(tmp_path, keep).restore(CPU) == {"step": 3, "again": True}
    assert len(one.all()) == min(keep, 3)


def killed_inside_save(forks: Forks, folder: Path, times: int) -> None:
    """After each kill, the newest good one is the last that was announced or the next, and all of it is of that step."""
    announce, inside, step = folder / "announced", 0, 0
    announce.write_bytes(bytes(8))
    for _ in range(times):
        after = random.uniform(0.01, 3.0)
        ended = forks.run(
            "tests.training.faults:save_until_killed", str(folder), str(announce), after, folder=folder, kill_after=60
        )
        assert ended.code == -9, ended.output
        announced = int.from_bytes(announce.read_bytes(), "little")
        inside += bool(list((folder / "checkpoints").glob(".*.tmp")))
        found = Keeper(folder, 0, 2).restore(CPU) or {"step": 0, **state(0)}
        assert found["step"] in (announced, announced + 1), f"killed after {after} saves"
        assert not list((folder / "checkpoints").glob("damaged-*")), f"torn, killed after {after} saves"
        step = found["step"]
        assert bool((found["weights"] == step).all()) and len(found["more"][0]) == step % 7 + 1
    assert step > times / 4 and inside > times / 4, f"{step} saves, {inside} met by a kill: the test says too little"


def test_save__killed_inside_20_times_old_or_new_is_found(forks: Forks, tmp_path: Path) -> None:
    killed_inside_save(forks, tmp_path, 20)


@pytest.mark.slow
def test_save__killed_inside_200_times_old_or_new_is_found(forks: Forks, tmp_path: Path) -> None:
    killed_inside_save(forks, tmp_path, 200)


def refused_once(forks: Forks, folder: Path, function: str, *arguments: Any) -> str:
    """A save that fails as a stage leaves what was there, says a retryable reason, and the next one goes on; the reason."""
    run = folder / "run"
    first = forks.run("tests.training.faults:save_as_a_stage", str(run), 1, folder=folder)
    assert first.code == 0, first.output
    ended = forks.run(f"tests.training.faults:{function}", str(run), 2, *arguments, folder=folder)
    if ended.code == 77:
        pytest.skip("this user may not mount a small file system")
    assert ended.code == 1 and "Traceback" not in ended.output, ended.output
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-0000000001.pt"]
    state = keeper(run).restore(CPU)
    assert state is not None and len(state["weights"]) == VALUES
    assert forks.run("tests.training.faults:save_as_a_stage", str(run), 2, folder=folder).code == 0
    assert (keeper(run).restore(CPU) or {})["step"] == 2
    return ended.output


def test_save__a_disk_that_is_really_full(forks: Forks, tmp_path: Path) -> None:
    """1.5 MiB hold one checkpoint of a MiB and a part of the next."""
    output = refused_once(forks, tmp_path, "save_on_a_small_disk", 1536)
    assert "the disk is full where" in output and "step-0000000002.pt should go" in output
    assert "free some space, and the same command continues" in output


def test_save__a_limit_of_the_process(forks: Forks, tmp_path: Path) -> None:
    """RLIMIT_FSIZE, which stands for a full disk where none can be mounted."""
    output = refused_once(forks, tmp_path, "save_under_a_limit", 1 << 19)
    assert "a file may not become as large as" in output and "step-0000000002.pt. Nothing that was finished" in output


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_save__a_folder_that_may_not_be_written(forks: Forks, tmp_path: Path) -> None:
    for folder in [tmp_path, *tmp_path.parents][:3]:
        folder.chmod(0o755)  # nobody may look, not write
    output = refused_once(forks, tmp_path, "save_as_nobody")
    assert "Permission denied: " in output and "let this user read and write there" in output


def test_save__takes_no_memory_for_a_second_copy(tmp_path: Path) -> None:
    """32 MB go to the disk piece by piece; control: a copy in memory first, which is seen."""
    content, one = {"weights": torch.zeros(8_000_000)}, keeper(tmp_path)
    tracemalloc.start()
    try:
        one.save(1, content)
        mine = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        torch.save(content, io.BytesIO())
        copied = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert mine < 4e6 and copied > 32e6


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.mark.parametrize(("takes", "apart"), [(0.1, 15.0), (0.3, 15.0), (2.0, 98.0), (10.0, 490.0)])
def test_due__saving_takes_at_most_two_percent_on_a_slow_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, takes: float, apart: float
) -> None:
    """49 times as long as the last save took, where that is more than the interval: 2 of 100 s; said once."""
    clock = Clock()
    monkeypatch.setattr(checkpoint, "time", clock)
    slow = Keeper(tmp_path, every_seconds=15.0, keep=1)
    saved, fsync = list[float](), os.fsync

    def wait(descriptor: int) -> None:
        clock.now += takes / 2  # of the file and of its folder
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", wait)
    began = None
    with caplog.at_level(logging.INFO):
        while len(saved) < 5:
            clock.now += 0.1
            if slow.due():
                began = began or clock.now
                saved.append(clock.now)
                slow.save(len(saved), {"step": len(saved)})
    gaps = [later - earlier - takes for earlier, later in pairwise(saved)]
    assert gaps == pytest.approx([apart] * 4, abs=0.11)
    spent = takes * 4 / (saved[-1] - saved[0])
    assert spent <= 0.02 + 1e-9
    assert (takes / (takes + 15.0) <= 0.02) == (apart == 15.0)  # control: left alone, the slow ones would cost more
    assert len([line for line in caplog.messages if "checkpoints come" in line]) == (apart > 15.0)


def test_due__every_step_means_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(checkpoint, "time", clock)
    one = Keeper(tmp_path, every_seconds=0.0, keep=1)
    monkeypatch.setattr(os, "fsync", lambda _: setattr(clock, "now", clock.now + 10))
    one.save(1, {"step": 1})
    assert one.due()
