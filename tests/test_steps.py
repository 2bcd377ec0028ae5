"""Stages with another number format, compiled, or with activations computed again: what moves bits, and what does not."""

import json
import shutil
from pathlib import Path

import pytest

from stages.lib.core import files
from tests.workspace import SET, edit, run

MODEL = Path("data/models/mae/model.safetensors")


def pretrained(project: Path, folder: Path, **changes: object) -> Path:
    """A copy of the project after pretraining."""
    shutil.copytree(project, folder, symlinks=True)
    edit(folder, {"pretrain.epochs": 1, **{key.replace("__", "."): value for key, value in changes.items()}})
    run(folder, "stages.pretrain", SET)
    return folder


def run_folder(folder: Path) -> Path:
    (found,) = (folder / "data/runs/pretrain").glob("*/kernels.json")
    return found.parent


@pytest.mark.slow
def test_pretrain__bf16_moves_bits_and_checkpointing_does_not(project: Path, tmp_path: Path) -> None:
    single = pretrained(project, tmp_path / "single", pretrain__precision="fp32")
    again = pretrained(project, tmp_path / "again", pretrain__precision="fp32", system__checkpoint_activations=True)
    half = pretrained(project, tmp_path / "half", pretrain__precision="bf16")
    digests = [files.sha256(folder / MODEL) for folder in (single, again, half)]
    assert digests[0] == digests[1] != digests[2]
    choice = json.loads((run_folder(single) / "kernels.json").read_text())
    assert choice.keys() == {"matmul", "attention.encoder", "attention.decoder"}
    assert choice == json.loads((run_folder(again) / "kernels.json").read_text())
    last = json.loads((run_folder(half) / "metrics.jsonl").read_text().splitlines()[-1])
    assert 0 < last["mfu"] < 2 and last["peak_bytes"] > 1e8


@pytest.mark.slow
def test_pretrain__compiled_twice_gives_the_same_bits(project: Path, tmp_path: Path) -> None:
    changes = {"pretrain__precision": "bf16", "pretrain__compile": True}
    first, second = (pretrained(project, tmp_path / name, **changes) for name in ("first", "second"))
    assert files.sha256(first / MODEL) == files.sha256(second / MODEL)


def test_compile__without_a_compiler_is_refused(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(AssertionError, match="no-such-compiler is not here"):
        pretrained(project, tmp_path / "project", pretrain__compile=True)
    ending = json.loads((tmp_path / f"project/data/runs/pretrain@{SET}/last_exit.json").read_text())
    assert ending["code"] == 2
