"""A fetched teacher: the very file that was named, tensors only, and they fit."""

import hashlib
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from stages.lib.core.outcome import Refusal
from stages.lib.models import fetched, teacher
from stages.lib.params.teacher import Fetched, RegNetSizes

SIZES = RegNetSizes(depth=6, w0=24, wa=24.0, wm=2.0, group_size=8, stem_width=16)


def network(classes: int = 3, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return teacher.create("regnety_002", SIZES, classes)


def named(path: Path, digits: int = 64) -> Fetched:
    """The block that names the file as it is now."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Fetched(path=path.name, sha256=digest[:digits], licence="test")


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
def test_load__tensors_of_a_file_that_was_named(tmp_path: Path, wrapper: str | None) -> None:
    theirs, ours = network(seed=1), network(seed=2)
    path = tmp_path / ("w.pth" if wrapper else "w.safetensors")
    if wrapper:
        torch.save({wrapper: theirs.state_dict()}, path)
    else:
        safetensors.torch.save_file(theirs.state_dict(), path)
    fetched.load(ours, named(path, 8), tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(theirs.state_dict().values(), ours.state_dict().values(), strict=True))


def test_load__another_file_than_named_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(network().state_dict(), path)
    block = named(path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(Refusal, match=f"teacher.fetch.sha256 is {block.sha256}"):
        fetched.load(network(), block, tmp_path)


def test_load__a_missing_file_says_where_to_put_it(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="is not there"):
        fetched.load(network(), Fetched(path="no.pth", sha256="0" * 64, licence="test"), tmp_path)


def test_load__weights_for_other_classes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(network(classes=5).state_dict(), path)
    with pytest.raises(Refusal, match=r"3 classes of this set.*wanted \(3"):
        fetched.load(network(classes=3), named(path), tmp_path)


class Bomb:
    """Runs a command when unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch exploded",)


def test_load__a_pickle_that_runs_code_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "w.pth"
    torch.save({"model": Bomb()}, path)
    with pytest.raises(Refusal, match="more than tensors"):
        fetched.load(network(), named(path), tmp_path)
    assert not (tmp_path / "exploded").exists()
