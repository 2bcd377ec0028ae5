"""Files of weights: what is in them is read, whatever they are called, and nothing in them is run."""

import argparse
import io
import os
import pickle
import pickletools
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from stages.lib.core.outcome import Refusal
from stages.lib.models import tensors

STATE = {"stem.conv.weight": torch.arange(6.0).reshape(2, 3), "head.fc.bias": torch.ones(2)}


def same(found: dict[str, torch.Tensor]) -> bool:
    return found.keys() == STATE.keys() and all(torch.equal(found[name], STATE[name]) for name in STATE)


def published(path: Path, **more: Any) -> Path:
    """The layout of regnety_160-a5fe301d.pth and of DeiT's own checkpoints: `model`, and the run's argparse namespace."""
    args = argparse.Namespace(
        model="regnety_160", lr=5e-4, betas=None, distributed=True, opt_betas=[0.9, 0.999], nested={"a": 1}
    )
    torch.save({"model": STATE, "epoch": 299, "args": args, **more}, path)
    return path


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors", "w"])
def test_read__a_torch_file_under_any_name(tmp_path: Path, wrapper: str | None, name: str) -> None:
    torch.save({wrapper: STATE} if wrapper else STATE, tmp_path / name)
    assert same(tensors.read(tmp_path / name))


def test_read__safetensors_under_any_name(tmp_path: Path) -> None:
    safetensors.torch.save_file(STATE, tmp_path / "0123abcd")
    assert same(tensors.read(tmp_path / "0123abcd"))


def test_read__the_published_layout_with_a_namespace_inside(tmp_path: Path) -> None:
    path = published(tmp_path / "w.pth")
    with pytest.raises(pickle.UnpicklingError):  # the control: torch alone does not take it
        torch.load(path, weights_only=True)
    assert same(tensors.read(path))
    with pytest.raises(pickle.UnpicklingError):  # and nothing stays allowed afterwards
        torch.load(path, weights_only=True)


def test_read__the_format_before_torch_1_6(tmp_path: Path) -> None:
    torch.save({"model": STATE}, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    assert same(tensors.read(tmp_path / "w.pth"))


def test_read__model_is_meant_where_an_average_lies_beside_it(tmp_path: Path) -> None:
    """timm's own loader prefers model_ema; DeiT's published numbers are of `model`."""
    other = {name: tensor + 1 for name, tensor in STATE.items()}
    assert same(tensors.read(published(tmp_path / "w.pth", model_ema=other)))


class Bomb:
    """Runs a command when unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch exploded",)


class Armed(argparse.Namespace):
    """A namespace that is none."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch exploded",)


@pytest.mark.parametrize(
    "content",
    [
        {"model": Bomb()},
        {"model": STATE, "args": argparse.Namespace(model=Bomb())},
        {"model": STATE, "args": Armed(model="x")},
        {"model": STATE, "optimizer": [Bomb()]},
        Bomb(),
    ],
    ids=["model", "inside the namespace", "as the namespace", "beside", "alone"],
)
@pytest.mark.parametrize("new", [True, False], ids=["zip", "old format"])
def test_read__a_pickle_that_runs_code_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any, new: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(content, "w.pth", _use_new_zipfile_serialization=new)
    with pytest.raises(Refusal, match="more than tensors"):
        tensors.read(tmp_path / "w.pth")
    assert not (tmp_path / "exploded").exists()


def test_read__the_bomb_is_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Positive control: read carelessly, the same file does run its command."""
    monkeypatch.chdir(tmp_path)
    torch.save({"model": STATE, "args": argparse.Namespace(model=Bomb())}, "w.pth")
    torch.load("w.pth", weights_only=False)
    assert (tmp_path / "exploded").exists()


@pytest.mark.parametrize("content", [{"model": {"lr": 0.1}}, {}, [1, 2], {"model": {}}])
def test_read__no_state_dict_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(Refusal, match="no state dict"):
        tensors.read(tmp_path / "w.pth")


def test_read__damaged_files_are_refused(tmp_path: Path) -> None:
    for name, write in (
        ("w.pth", lambda path: torch.save(STATE, path)),
        ("w.safetensors", lambda path: safetensors.torch.save_file(STATE, path)),
    ):
        write(tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(Refusal):
            tensors.read(tmp_path / name)


def named(length: int) -> bytes:
    """A pickle that asks for a global with a name of this length."""
    return b"\x80\x02c" + b"t" * length + b"\nx\n."


def third(whole: bytes) -> int:
    """Where the old format's third pickle ends: a magic number, a version and the machine stand before what was saved."""
    file = io.BytesIO(whole)
    for _ in range(3):
        list(pickletools.genops(file))
    return file.tell()


@pytest.mark.parametrize("new", [True, False], ids=["zip", "old format"])
def test_read__a_long_name_is_refused_at_once(tmp_path: Path, new: bool) -> None:
    """torch explains what it refuses with a search whose time grows with the square: 60 kB of name took it 2 s."""
    torch.save(STATE, tmp_path / "w.pth", _use_new_zipfile_serialization=new)
    whole = (tmp_path / "w.pth").read_bytes()
    for length, words in ((100, "was not an allowed global"), (1 << 20, "a name of more than 1,000 bytes")):
        if new:
            with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(tmp_path / "w.pth", "w") as made:
                for entry in old.infolist():
                    made.writestr(entry, named(length) if entry.filename.endswith("data.pkl") else old.read(entry))
        else:
            (tmp_path / "w.pth").write_bytes(
                whole[: whole.index(b".", 40) + 1] + named(length)
            )  # behind the two first pickles
        began = time.process_time()
        with pytest.raises(Refusal, match=words):
            tensors.read(tmp_path / "w.pth")
        assert time.process_time() - began < 2


def test_read__a_zip_that_unfolds_is_refused(tmp_path: Path) -> None:
    """Nor is one read that claims to be torch's and is not: 100 MB of zeros in 100 kB."""
    torch.save(STATE, tmp_path / "w.pth")
    assert same(tensors.read(tmp_path / "w.pth"))
    with (
        zipfile.ZipFile(tmp_path / "w.pth") as old,
        zipfile.ZipFile(tmp_path / "z.pth", "w", zipfile.ZIP_DEFLATED) as made,
    ):
        for name in old.namelist():
            made.writestr(name, old.read(name))
    with pytest.raises(Refusal, match="is compressed, which torch"):
        tensors.read(tmp_path / "z.pth")
