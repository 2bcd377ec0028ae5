"""Every trained stage with everything random switched on, small enough to be killed dozens of times; and what it left behind."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.forks import Ended, Forks
from tests.workspace import SET, edit

TIMED = ("images_per_second", "waiting_share", "mfu", "peak_bytes", "read_ms", "decode_ms", "augment_ms")
VIEWS = {
    "batch_size": 96,
    "repeats": 3,
    "randaugment": "rand-m5-mstd0.5-inc1",
    "erase": 0.3,
    "mixup": 0.8,
    "cutmix": 1.0,
    "mix_prob": 0.8,
    "mix_group": 32,
    "hflip": 0.5,
}
"""Repeated augmentation, RandAugment, erasing, mixup and cutmix; in passes of 32 images, as system.device_batch says below."""


@dataclass(frozen=True)
class Stage:
    """A trained stage and what it makes."""

    name: str
    model: str
    arguments: tuple[str, ...] = (SET,)
    item: str = ""

    @property
    def runs(self) -> Path:
        return Path("data/runs") / (f"{self.name}@{self.item}" if self.item else self.name)


STAGES = {
    "teacher": Stage("teacher", "teacher"),
    "pretrain": Stage("pretrain", "mae"),
    "distill": Stage("distill", "student"),
    "finetune": Stage("finetune", "finetuned"),
    "transfer": Stage("transfer", f"transfer-{SET}", item=SET),
}
"""In the order in which they need each other. The transfer set is the main set: another would only take longer."""


def switch_on(folder: Path) -> None:
    """The full recipe: stochastic depth, EMA, mixing, repeats, RandAugment, MAE masks, passes; each kind of `select` once."""
    changes: dict[str, Any] = {"system.device_batch": 32, "system.checkpoint_seconds": 0.0, "pretrain.epochs": 3}
    blocks = {"teacher": 3, "train": 3, "finetune": 2, "transfer": 3}
    for block, epochs in blocks.items():
        changes |= {f"{block}.views.{key}": value for key, value in VIEWS.items()}
        changes |= {f"{block}.views.epochs": epochs, f"{block}.schedule.warmup_epochs": 1, f"{block}.ema_decay": 0.8}
        changes |= {f"{block}.optimizer.clip_norm": 1.0}
    changes |= {f"{block}.drop_path": 0.3 for block in ("train", "finetune", "transfer")}
    changes |= {"teacher.norm_group": 32, "train.init": "mae", "finetune.mode": "train", "finetune.distill": "as-train"}
    changes |= {
        "teacher.select": "best_val",
        "train.select": "ema",
        "finetune.select": "last",
        "transfer.select": "ema",
    }
    edit(folder, changes)


def run(forks: Forks, folder: Path, stage: str, kill_at: list[Any] | None = None, sabotage: str | None = None) -> Ended:
    """The stage as `python -m` runs it, or killed at a call (tests/killed.py), or sabotaged."""
    arguments = list(STAGES[stage].arguments)
    return forks.run("tests.killed:stage", f"stages.{stage}", arguments, kill_at, sabotage, folder=folder)


def finished(forks: Forks, folder: Path, stage: str, sabotage: str | None = None) -> str:
    """The output of a run to the end."""
    ended = run(forks, folder, stage, sabotage=sabotage)
    assert ended.code == 0, ended.output
    return ended.output


def fresh_copy(folder: Path, to: Path, stage: str) -> Path:
    """The project as if `stage` had never run."""
    shutil.copytree(folder, to, symlinks=True)
    shutil.rmtree(to / STAGES[stage].runs, ignore_errors=True)
    shutil.rmtree(to / "data/models" / STAGES[stage].model, ignore_errors=True)
    (to / f"data/history/{STAGES[stage].model}.csv").unlink(missing_ok=True)
    return to


def rows(folder: Path, stage: str) -> list[dict[str, float]]:
    """metrics.jsonl without what is a time or a size of this process."""
    (path,) = (folder / STAGES[stage].runs).glob("*/metrics.jsonl")
    return [{k: v for k, v in json.loads(line).items() if k not in TIMED} for line in path.read_text().splitlines()]


def left(folder: Path, stage: str) -> dict[str, Any]:
    """Everything that must be equal: the model's bytes, the history, the log's rows, every tensor of the last checkpoint."""
    one = STAGES[stage]
    newest = max((folder / one.runs).glob("*/checkpoints/step-*.pt"))
    state = torch.load(newest, weights_only=True)
    return {
        "model": (folder / "data/models" / one.model / "model.safetensors").read_bytes(),
        "history": (folder / f"data/history/{one.model}.csv").read_text(),
        "rows": rows(folder, stage),
        **dict(flat(state, "state")),
    }


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names of what differs between two of `left`, empty if nothing does."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def flat(state: Any, name: str) -> list[tuple[str, Any]]:
    """Leaves of nested dictionaries and lists by path; a tensor is its shape and bytes."""
    if isinstance(state, dict):
        return [leaf for key, value in state.items() for leaf in flat(value, f"{name}/{key}")]
    if isinstance(state, list | tuple):
        return [leaf for place, value in enumerate(state) for leaf in flat(value, f"{name}/{place}")]
    if isinstance(state, torch.Tensor):
        return [(name, (tuple(state.shape), str(state.dtype), state.numpy().tobytes()))]
    return [(name, state)]
