"""Every planted fault is found where it should be, said in words that name the thing and what to do, and nothing good is lost.

The clean data of every kind raise no alarm on the same path. Most gate faults and a few others are slow; a few of each kind are
always tried. `python -m tests.faults` prints the table.
"""

import dataclasses
import time
from pathlib import Path

import numpy as np
import pytest

from stages.lib.core.outcome import Refusal
from stages.lib.data.index import read_index
from stages.lib.data.tar_look import look
from tests.faults import manifests, shards, trial, weights
from tests.faults.catalogue import FAULTS, KINDS, ONES
from tests.faults.fault import Bench, Fault
from tests.faults.trial import clean, tried

GATES = (manifests.Manifest, shards.Shards, weights.Gate)  # Great Expectations takes half a second for each
ALWAYS = {
    *(
        f"manifest: {name}"
        for name in ("a label beyond the class list", "a training image among those measured with", "cut off")
    ),
    *(
        f"shards and index: {name}"
        for name in ("a flipped byte in an image", "a shard cut inside an image", "an index cut off")
    ),
    *(f"model: {name}" for name in ("a weight that is no number", "a config that is a list")),
}  # of the gates' faults


def told(fault: Fault) -> object:
    """With a mark for what takes long."""
    slow = fault.bench in GATES and str(fault) not in ALWAYS
    return pytest.param(fault, id=str(fault), marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize("fault", map(told, FAULTS))
def test_fault__is_found_named_and_nothing_good_is_lost(fault: Fault, tmp_path: Path) -> None:
    found = tried(fault, tmp_path / "x")
    assert found.where == fault.where, found.message or "nobody noticed"
    assert [piece for piece in fault.says if piece not in found.message] == [], found.message
    assert (found.code, found.retryable) == (2, False)  # last_exit.json: a person has to put it right
    assert "Traceback" not in found.message and found.kept


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_clean_data__raise_no_alarm(kind: type[Bench], tmp_path: Path) -> None:
    """Negative control, on the same path."""
    clean(kind, tmp_path / "x")


def test_catalogue__has_more_than_sixty_faults_of_every_kind() -> None:
    assert len(FAULTS) >= 200 and len(set(map(str, FAULTS))) == len(FAULTS)
    assert all(sum(fault.bench is kind for fault in FAULTS) for kind in KINDS)
    assert ALWAYS <= set(map(str, FAULTS))


def test_trial__notices_what_nobody_finds_and_what_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative controls of the suite itself."""
    harmless = dataclasses.replace(ONES[0], plant=lambda _: None)
    assert tried(harmless, tmp_path / "x").where == ""
    hangs = dataclasses.replace(ONES[0], plant=lambda _: time.sleep(60))
    monkeypatch.setattr(trial, "SECONDS", 0.2)
    with pytest.raises(TimeoutError):
        tried(hangs, tmp_path / "y")


def test_shards__cut_at_any_byte_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """100 lengths, each looked at as the gate does: the facts differ from the index, and no cut image is taken for whole."""
    bench = shards.Shards(tmp_path / "x", monkeypatch)
    tar, about = bench.tar(), bench.listed[bench.tar().name]
    whole, rows = tar.read_bytes(), bench.rows[bench.rows["shard"] == tar.name]
    assert (len(whole), look(tar, rows).sha256) == (about["bytes"], about["sha256"]) and look(tar, rows).match.all()
    for length in np.linspace(0, len(whole) - 1, 100).astype(int).tolist():
        tar.write_bytes(whole[:length])
        seen = look(tar, rows)
        assert seen.bytes == length != about["bytes"] and seen.sha256 != about["sha256"]
        assert seen.match.tolist() == (rows["offset"] + rows["size"] <= length).tolist()


def test_index__no_flipped_bit_is_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """200 places: the file is refused, or what is read of it is what was written (parquet keeps statistics nobody reads)."""
    shards.Training(tmp_path / "x", monkeypatch)
    good, written, refused = read(), shards.INDEX.read_bytes(), 0
    for place in np.linspace(0, len(written) - 1, 200).astype(int).tolist():
        shards.flip(shards.INDEX, place)
        try:
            assert read() == good, f"silently other at byte {place}"
        except Refusal as refusal:
            assert str(shards.INDEX) in str(refusal)
            refused += 1
        shards.INDEX.write_bytes(written)
    assert refused > 50


def read() -> list[object]:
    """All that training and evaluation take out of an index."""
    found: list[object] = []
    for split in ("train", "val"):
        index = read_index(shards.INDEX, split)
        values = [getattr(index, field.name) for field in dataclasses.fields(index)]
        found += [value.tolist() if isinstance(value, np.ndarray) else value for value in values] + [index.keys]
    return found
