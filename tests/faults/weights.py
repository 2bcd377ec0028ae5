"""Faults in models: weights, config, history; and in weights that somebody else made."""

import hashlib
import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from stages import validate
from stages.lib.models import fetched, folder, teacher
from stages.lib.params.teacher import RegNetSizes, Teacher
from tests import fabricated
from tests.faults.fault import Bench, Fault, cut, files, flip
from tests.faults.settings import BLOCKS
from tests.ingestion.raw_project import ROOT

DATA = Path("data")
MODEL, HISTORY = DATA / "models/student", DATA / "history/student.csv"
WEIGHTS, CONFIG = MODEL / "model.safetensors", MODEL / "config.json"
SIZES = RegNetSizes(depth=6, w0=24, wa=24.0, wm=2.0, group_size=8, stem_width=16)


class Gate(Bench):
    """A student's folder and history, looked at by its gate."""

    kind = "model"

    def lay(self) -> None:
        """The model and the gates' limits."""
        shutil.copytree(ROOT / "data/expectations", "data/expectations")
        self.tensors = fabricated.tensors()
        fabricated.write_model(DATA, "student", self.tensors)

    def change(self, name: str, change: Callable[[np.ndarray], np.ndarray | None]) -> None:
        """Another tensor of this name: changed in place, or what is returned."""
        changed = change(self.tensors[name])
        self.tensors[name] = self.tensors[name] if changed is None else changed
        fabricated.write_safetensors(WEIGHTS, self.tensors)

    def look(self) -> None:
        """The gate."""
        self.where = "validate-model"
        validate.validate("model", "student")

    def inputs(self) -> dict[str, bytes]:
        """Model, history and limits."""
        return files(*(DATA / name for name in ("models", "history", "expectations")))

    def kept(self) -> str:
        """The gate is shut."""
        assert not (DATA / "gates/model-student.json").exists()
        return super().kept()


class Folder(Bench):
    """A real model's folder, loaded as evaluate, finetune and export do."""

    kind = "model folder"

    def lay(self) -> None:
        """A tiny RegNetY."""
        torch.manual_seed(0)
        network = teacher.create("regnety_002", SIZES, 3)
        folder.save(network, MODEL, "regnety_002", teacher.model_args(SIZES), 32, 1.0, fabricated.CLASSES)

    def config(self, **changes: Any) -> None:
        """Other values in config.json; None takes one away."""
        content = json.loads(CONFIG.read_text()) | changes
        CONFIG.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))

    def look(self) -> None:
        """Load it."""
        self.where = "loading"
        folder.load(MODEL)

    def inputs(self) -> dict[str, bytes]:
        """The folder."""
        return files(MODEL)


class Theirs(Bench):
    """Somebody else's teacher, named with its sha256."""

    kind = "teacher's weights"
    path = Path("theirs/model.safetensors")

    def lay(self) -> None:
        """Its file and a config.json beside it."""
        self.path.parent.mkdir()
        torch.manual_seed(0)
        self.state = teacher.create("regnety_002", SIZES, 3).state_dict()
        self.named = ""
        self.write(self.state)
        config = {"architecture": "regnety_002", "label_names": fabricated.CLASSES, "pretrained_cfg": {}}
        (self.path.parent / "config.json").write_text(json.dumps(config))

    def write(self, state: dict[str, torch.Tensor]) -> None:
        """Other tensors, and their sha256 in params.yaml."""
        safetensors.torch.save_file(state, self.path)
        self.trust()

    def pickle(self, content: Any) -> None:
        """A torch pickle under the same name."""
        torch.save(content, self.path)
        self.trust()

    def trust(self) -> None:
        """Name what lies there now."""
        self.named = hashlib.sha256(self.path.read_bytes()).hexdigest()

    def look(self) -> None:
        """As the stage teacher does."""
        self.where = "teacher"
        values = {**BLOCKS["teacher"], "source": str(self.path.absolute()), "sha256": self.named, "licence": "MIT"}
        found = fetched.origin(Teacher.model_validate(values), Path("raw"))
        fetched.load(teacher.create("regnety_002", SIZES, 3), found, fabricated.CLASSES, "same")

    def inputs(self) -> dict[str, bytes]:
        """The file."""
        return files(self.path.parent)

    def kept(self) -> str:
        """Nothing in it has run."""
        assert not Path("was-here").exists(), "the pickle ran"
        return super().kept()


class Runs:
    """Makes a folder when it is unpickled: what a virus would do."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("was-here",)


DO = ("data/history/student.csv", "params.yaml")
QKV = "blocks.0.attn.qkv.weight"


def gate(name: str, plant: Callable[[Any], object], *says: str, do: tuple[str, ...] = DO) -> Fault:
    """Found by the gate behind the stage that trained it."""
    return Fault(name, Gate, plant, "validate-model", (*says, *do))


def loading(name: str, plant: Callable[[Any], object], *says: str) -> Fault:
    """Found where it is loaded."""
    return Fault(name, Folder, plant, "loading", says)


def theirs(name: str, plant: Callable[[Any], object], *says: str) -> Fault:
    """Found before a student learns from it."""
    return Fault(name, Theirs, plant, "teacher", says)


def filled(value: float) -> Callable[[np.ndarray], None]:
    """Every element is this."""

    def change(tensor: np.ndarray) -> None:
        tensor[:] = value

    return change


def one(value: float) -> Callable[[np.ndarray], None]:
    """One element is this."""

    def change(tensor: np.ndarray) -> None:
        tensor.flat[1] = value

    return change


def header_bomb(path: Path) -> None:
    """A safetensors file whose header says it is 2^60 bytes long."""
    path.write_bytes(struct.pack("<Q", 1 << 60) + path.read_bytes()[8:])


def history(*rows: str) -> None:
    """Another history."""
    HISTORY.write_text("\n".join(["epoch,loss,lr,val_loss,val_top1", *rows, ""]))


def without(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A tensor is missing."""
    return {name: tensor for name, tensor in state.items() if name != "head.fc.bias"}


RESTORE = ("dvc checkout",)
FAULTS = [
    gate("a weight that is no number", lambda bench: bench.change(QKV, one(np.nan)), QKV, "finite_share"),
    gate("a weight that is infinite", lambda bench: bench.change(QKV, one(np.inf)), QKV, "finite_share"),
    gate(
        "a weight of a thousand million", lambda bench: bench.change("norm.weight", one(1e9)), "norm.weight", "ran away"
    ),
    gate(
        "a matrix of one value", lambda bench: bench.change("head_dist.weight", filled(0.5)), "head_dist.weight", "std"
    ),
    gate(
        "a head of other classes",
        lambda bench: bench.change("head.bias", lambda t: t[:2]),
        "head.bias",
        "one row a class",
    ),
    gate(
        "a loss that was no number",
        lambda _: history("0,2,0,,", "1,nan,0,1,90"),
        "losses_not_finite 1",
        "nobody should trust",
    ),
    gate("a loss that rises", lambda _: history("0,1,0,,", "1,1.2,0,1,90"), "loss_ratio 1.2"),
    gate("an accuracy no better than a guess", lambda _: history("0,2,0,,", "1,1,0,1,33"), "val_top1_over_chance"),
    gate("an accuracy above 100", lambda _: history("0,2,0,,", "1,1,0,1,101"), "val_top1 101", "A percentage"),
    gate("a history with a word in it", lambda _: history("0,two,0,,"), str(HISTORY), do=RESTORE),
    gate("a history with too many cells", lambda _: history("0,2,0,,,,9"), str(HISTORY), do=RESTORE),
    gate("a history that is gone", lambda _: HISTORY.unlink(), str(HISTORY), do=("dvc repro",)),
    gate("weights cut off", lambda _: cut(WEIGHTS, -10), str(WEIGHTS), do=RESTORE),
    gate("weights of zero bytes", lambda _: cut(WEIGHTS, 0), str(WEIGHTS), do=RESTORE),
    gate("weights with a header bomb", lambda _: header_bomb(WEIGHTS), str(WEIGHTS), do=RESTORE),
    gate("weights that are gone", lambda _: WEIGHTS.unlink(), str(WEIGHTS), do=RESTORE),
    gate("a config cut off", lambda _: cut(CONFIG, 20), str(CONFIG), do=RESTORE),
    gate("a config that is a list", lambda _: CONFIG.write_text("[]"), str(CONFIG), do=RESTORE),
    gate(
        "a config with a word for a number",
        lambda _: CONFIG.write_text('{"num_classes": "three"}'),
        str(CONFIG),
        do=RESTORE,
    ),
    gate("a config without class names", lambda _: CONFIG.write_text('{"num_classes": 3}'), "label_names"),
    loading(
        "config of another architecture", lambda bench: bench.config(architecture="resnet10t"), str(CONFIG), "one run"
    ),
    loading(
        "config of an unknown architecture", lambda bench: bench.config(architecture="vit_none"), str(CONFIG), "one run"
    ),
    loading("config of other sizes", lambda bench: bench.config(num_classes=7), str(CONFIG), "one run"),
    loading("config without an architecture", lambda bench: bench.config(architecture=None), str(CONFIG), *RESTORE),
    loading("config that is a list", lambda _: CONFIG.write_text("[]"), str(CONFIG), *RESTORE),
    loading("config cut off", lambda _: cut(CONFIG, 30), str(CONFIG), *RESTORE),
    loading("weights cut off", lambda _: cut(WEIGHTS, -10), str(WEIGHTS), *RESTORE),
    loading("weights with a flipped byte in their header", lambda _: flip(WEIGHTS, 12), str(WEIGHTS), *RESTORE),
    loading("weights with a header bomb", lambda _: header_bomb(WEIGHTS), str(WEIGHTS), *RESTORE),
    theirs("a pickle bomb", lambda bench: bench.pickle({"model": Runs()}), "model.safetensors", "as safetensors"),
    theirs(
        "a pickle bomb beside good weights",
        lambda bench: bench.pickle({"model": bench.state, "x": Runs()}),
        "as safetensors",
    ),
    theirs(
        "a pickle of a whole model",
        lambda bench: bench.pickle(teacher.create("regnety_002", SIZES, 3)),
        "state dict alone",
    ),
    theirs("a pickle without tensors", lambda bench: bench.pickle({"model": {"a": 1}}), "holds no state dict"),
    theirs("a pickle cut off", lambda bench: (bench.pickle({}), cut(bench.path, 100), bench.trust()), "no torch file"),
    theirs("words", lambda bench: (bench.path.write_text("soon"), bench.trust()), "no torch file"),
    theirs("zero bytes", lambda bench: (cut(bench.path, 0), bench.trust()), "no torch file"),
    theirs(
        "safetensors cut off",
        lambda bench: (cut(bench.path, -9), bench.trust()),
        "damaged safetensors",
        "fetch it again",
    ),
    theirs("safetensors with a header bomb", lambda bench: (header_bomb(bench.path), bench.trust()), "fetch it again"),
    theirs("a flipped byte", lambda bench: flip(bench.path, -5), "has sha256", "teacher.sha256 is", "fetch it again"),
    theirs("a file that is gone", lambda bench: bench.path.unlink(), "is not there", "teacher.source: train"),
    theirs("a tensor missing", lambda bench: bench.write(without(bench.state)), "head.fc.bias is missing"),
    theirs("a tensor too many", lambda bench: bench.write({**bench.state, "more": torch.ones(1)}), "more is not known"),
    theirs(
        "a tensor of another shape",
        lambda bench: bench.write({**bench.state, "head.fc.bias": torch.ones(5)}),
        "head.fc.bias is (5,), wanted (3,)",
    ),
    theirs(
        "other classes",
        lambda bench: (bench.path.parent / "config.json").write_text(
            json.dumps({"architecture": "x", "label_names": ["x", "y", "z"], "pretrained_cfg": {}})
        ),
        "the weights are for 3 classes (x, y, z)",
        "teacher.classes: by-name",
    ),
    theirs(
        "a config cut off",
        lambda bench: cut(bench.path.parent / "config.json", 20),
        "config.json is missing or damaged",
    ),
]
