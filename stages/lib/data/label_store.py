"""A teacher's answers to every view of every epoch: a file an epoch, read by position.

epoch-0000.safetensors, ...   hard u16[positions]; with top_k classes u16[positions, k] by falling probability, log_probabilities
                              f16[positions, k] and log_rest f16[positions]: natural logarithms at temperature 1. Tails matter once
                              they are softened, and 16 bits hold a logarithm far better than a small probability. One key of
                              metadata, since several would come in random order: {"epoch", "fingerprint", "sha256" of the contents}
store.json                    Facts; with live labels {"labels": "live"} alone

A file that is cut, edited, shuffled, another epoch's or another store's is refused before any of its answers are used.
"""

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from torch import Tensor

from stages.lib.core import files
from stages.lib.core.outcome import Refusal
from stages.lib.data import fingerprint
from stages.lib.data.answers import Answers
from stages.lib.data.fingerprint import Parts

FACTS, KEY = "store.json", "tutelage"
TYPES = {"U16": np.dtype("<u2"), "F16": np.dtype("<f2")}
Arrays = Mapping[str, np.ndarray]


class Damaged(Exception):
    """A file is not what was stored; the message says in what."""


@dataclass(frozen=True)
class Facts:
    """What every file of a store agrees with."""

    fingerprint: str
    parts: Parts
    """What the fingerprint is of."""
    epochs: int
    positions: int
    """Of an epoch: whole batches."""
    classes: int
    top_k: int

    def shapes(self) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
        """Name -> (type, shape) of the tensors of a file."""
        number, real = TYPES["U16"], TYPES["F16"]
        soft = {
            "classes": (number, (self.positions, self.top_k)),
            "log_probabilities": (real, (self.positions, self.top_k)),
            "log_rest": (real, (self.positions,)),
        }
        return {"hard": (number, (self.positions,)), **(soft if self.top_k else {})}


def name_of(epoch: int) -> str:
    """Its file."""
    return f"epoch-{epoch:04d}.safetensors"


def write_epoch(path: Path, facts: Facts, epoch: int, arrays: Arrays) -> None:
    """One file, whole or not at all; equal answers give equal bytes. arrays: as `Facts.shapes` says, of any number types."""
    ready = {name: np.ascontiguousarray(arrays[name], kind) for name, (kind, _) in facts.shapes().items()}
    assert all(ready[name].shape == shape for name, (_, shape) in facts.shapes().items())
    told = {"epoch": epoch, "fingerprint": facts.fingerprint, "sha256": checksum(ready)}
    with files.replace(path) as temporary:
        temporary.write_bytes(safetensors.numpy.save(ready, {KEY: json.dumps(told, sort_keys=True)}))


def read_epoch(path: Path, facts: Facts, epoch: int) -> tuple[dict[str, np.ndarray], str]:
    """(its tensors, mapped, not read; the sha256 of what they should hold). Raises Damaged where another file lies there."""
    arrays, told = mapped(path)
    found = {name: (array.dtype, array.shape) for name, array in arrays.items()}
    if told.get("epoch") != epoch:
        raise Damaged(f"{path} holds epoch {told.get('epoch')}")
    if told.get("fingerprint") != facts.fingerprint:
        raise Damaged(
            f"{path} belongs to another store: its fingerprint is {fingerprint.shown(told.get('fingerprint'))}"
        )
    if found != facts.shapes():
        raise Damaged(f"{path} holds {found}, where {facts.shapes()} should be")
    return arrays, str(told.get("sha256"))


def verified(path: Path, facts: Facts, epoch: int) -> dict[str, np.ndarray]:
    """The tensors of a file, mapped, each byte of them compared with the file's checksum. Raises Damaged."""
    arrays, wanted = read_epoch(path, facts, epoch)
    if checksum(arrays) != wanted:
        raise Damaged(f"{path} was changed after it was written: its contents do not have its checksum")
    return arrays


def mapped(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(tensors of a safetensors file in the memory of the system, what its metadata tells). Raises Damaged.

    The format is a u64 length, a JSON header of that length, and the tensors; its own reader would copy a whole epoch.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header: dict[str, Any] = json.loads(file.read(length))
        told: dict[str, Any] = json.loads(header.pop("__metadata__")[KEY])
        body = np.memmap(path, np.uint8, "r", 8 + length)
        arrays = {}
        for name, about in header.items():
            first, last = about["data_offsets"]
            arrays[name] = body[first:last].view(TYPES[about["dtype"]]).reshape(about["shape"])
        return arrays, told
    except (OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError, struct.error) as error:
        raise Damaged(f"{path} is missing or damaged ({type(error).__name__}: {error})") from error


def checksum(arrays: Arrays) -> str:
    """Hex sha256 of names, shapes and contents."""
    found = hashlib.sha256()
    for name in sorted(arrays):
        found.update(f"{name} {arrays[name].dtype.str} {arrays[name].shape}\n".encode())
        found.update(arrays[name].data)
    return found.hexdigest()


def write_facts(folder: Path, facts: Facts) -> None:
    """store.json, with the checksum of every file: it alone then stands for the store's contents."""
    sums = [read_epoch(folder / name_of(epoch), facts, epoch)[1] for epoch in range(facts.epochs)]
    _write(folder, {"labels": "stored", **asdict(facts), "sha256": sums})


def write_live(folder: Path) -> None:
    """A store of nothing, which says so."""
    with files.replace_folder(folder) as fresh:
        _write(fresh, {"labels": "live"})


def _write(folder: Path, content: Mapping[str, Any]) -> None:
    with files.replace(folder / FACTS) as temporary:
        temporary.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


class Store:
    """The answers of a store. One thread reads; one epoch is mapped at a time, and verified when it is."""

    def __init__(self, folder: Path, ours: Parts, classes: int, soft: bool) -> None:
        """ours: what the answers must follow from; soft: probabilities are wanted. Looks at every file's header.

        Raises Refusal where the store is missing, damaged, or one for something else.
        """
        self.folder = folder
        self.facts, self.sums = read_facts(folder)
        _must_fit(folder, self.facts, ours, classes, soft)
        for epoch in range(self.facts.epochs):
            self._read(epoch, whole=False)
        self._epoch, self._arrays = -1, dict[str, np.ndarray]()

    def answers(self, epoch: int, positions: np.ndarray) -> Answers:
        """What the teacher said of positions i64[B] of an epoch. Raises Refusal where the epoch's file was changed."""
        if epoch != self._epoch:
            self._arrays = self._read(epoch, whole=True)
            self._epoch = epoch

        def at(name: str, kind: type) -> Tensor | None:
            array = self._arrays.get(name)
            return None if array is None else torch.from_numpy(array[positions].astype(kind))

        hard = at("hard", np.int64)
        assert hard is not None
        soft = at("log_probabilities", np.float32), at("log_rest", np.float32)
        return Answers(hard, at("classes", np.int64), *soft)

    def _read(self, epoch: int, whole: bool) -> dict[str, np.ndarray]:
        """Its tensors; whole: with every byte compared."""
        path = self.folder / name_of(epoch)
        try:
            arrays, told = read_epoch(path, self.facts, epoch)
            if told != self.sums[epoch] or (whole and checksum(arrays) != told):
                raise Damaged(f"{path} does not hold what {FACTS} says")
            return arrays
        except Damaged as damaged:
            raise Refusal(f"{damaged}. {remedy(self.folder)}") from None


def remedy(folder: Path) -> str:
    """What brings a store back."""
    return (
        f"`rm -r {folder} && dvc checkout {folder}` restores the store; where the cache shares the damage, "
        "`dvc repro -f label` writes it again, asking the teacher for the damaged epochs alone."
    )


def read_facts(folder: Path) -> tuple[Facts, list[str]]:
    """What store.json says: (facts, checksum of each epoch). Raises Refusal."""
    path = folder / FACTS
    try:
        content = json.loads(path.read_text())
        if content["labels"] == "live":
            raise Refusal(
                f"{folder} was written with train.labels: live and holds no answers. `dvc repro label` asks the teacher, "
                "or set train.labels to live."
            )
        names = Facts.__dataclass_fields__
        facts, sums = Facts(**{name: content[name] for name in names}), list(content["sha256"])
        if len(sums) != facts.epochs or fingerprint.digest(facts.parts) != facts.fingerprint:
            raise ValueError("its parts do not agree")
        return facts, sums
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Refusal(
            f"{path} is missing or damaged ({type(error).__name__}: {error}). `dvc repro label` writes the store. {remedy(folder)}"
        ) from error


def _must_fit(folder: Path, facts: Facts, ours: Parts, classes: int, soft: bool) -> None:
    """Raise Refusal naming what differs."""
    if apart := fingerprint.differences(ours, facts.parts):
        raise Refusal(
            f"The answers in {folder} are to other views, or of another teacher:\n"
            + "".join(f"  {one}\n" for one in apart)
            + "`dvc repro label` asks the teacher about these; train.labels: live does without a store."
        )
    if facts.classes != classes:
        raise Refusal(f"{folder} is about {facts.classes} classes and the set has {classes}; `dvc repro -f label`.")
    if soft and not facts.top_k:
        raise Refusal(
            f"{folder} holds the teacher's decisions alone, and train.distill: soft needs probabilities; set "
            "train.labelling.top_k to 1 or more and `dvc repro label`, or set train.labels to live."
        )
