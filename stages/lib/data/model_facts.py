"""Facts about a trained model: its tensors one by one, and what its history says. NumPy only: a gate starts without torch.

tensors one row a tensor of model.safetensors and, for an MAE, decoder.safetensors
model   one row
"""

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError, safe_open

from stages.lib.core import files
from stages.lib.core.outcome import Refusal

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # counted or averaged, not learnt
HEADS = ("head", "head_dist", "head.fc", "fc")  # where config.json does not say
GUIDE = {
    "tensors": {
        "file": "",
        "name": "",
        "shape": "",
        "dtype": "",
        "learnt": "false for a batch norm's statistics",
        "dimensions": "",
        "elements": "",
        "first_size": "its first dimension",
        "first_size_expected": "classes, for a head; otherwise the same",
        "finite_share": "of its elements; not a number and infinity are not finite",
        "max_abs": "of its finite elements",
        "std": "of its finite elements",
    },
    "model": {
        "model": "",
        "sha256": "of the folder",
        "architecture": "timm's name",
        "tensors": "",
        "parameters": "learnt numbers",
        "num_classes": "0 for an encoder without a head",
        "label_names": "class names in config.json; 0 where none are needed",
        "epochs": "rows of the history",
        "losses_not_finite": "epochs whose training or validation loss is infinite or not a number",
        "loss_first": "training loss of the first epoch",
        "loss_last": "of the last; empty for a fetched model",
        "loss_ratio": "last over first; empty with fewer than two",
        "val_loss_first": "validation loss, first measured",
        "val_loss_last": "last measured",
        "val_loss_ratio": "last over first; empty with fewer than two",
        "val_top1": "per cent, last measured",
        "chance_top1": "per cent a guess gets right",
        "val_top1_over_chance": "how many times as good as a guess",
    },
}
MEASURED = tuple(column for column in GUIDE["model"] if column.startswith(("loss_", "val_", "chance_")))
KINDS = {"num_classes": int, "label_names": list, "pretrained_cfg": dict}
"""Of config.json's values; each may be left out."""
NAMING = {"tensors": ("file", "name", "shape"), "model": ("model",)}


def read(name: str, folder: Path, history: Path) -> dict[str, pd.DataFrame]:
    """Tables of facts by name, with the columns of GUIDE. Raises Refusal where a file cannot be read."""
    config = read_config(folder / "config.json")
    classes = int(config.get("num_classes", 0))
    named = config.get("pretrained_cfg", {}).get("classifier") or HEADS
    heads = (named,) if isinstance(named, str) else tuple(named)
    there = [path for path in (folder / "model.safetensors", folder / "decoder.safetensors") if path.exists()]
    if not there:
        raise unreadable(folder / "model.safetensors", "there is no such file")
    tensors = pd.DataFrame(
        [row for path in there for row in tensor_rows(path, heads, classes)], columns=list(GUIDE["tensors"])
    )
    model = {
        "model": name,
        "sha256": files.sha256(folder),
        "architecture": str(config.get("architecture", "")),
        "tensors": len(tensors),
        "parameters": int(tensors.loc[tensors["learnt"], "elements"].sum()),
        "num_classes": classes,
        "label_names": len(config.get("label_names", [])),
        **course(read_history(history), classes),
    }
    return {"tensors": tensors, "model": pd.DataFrame([model]).astype(dict.fromkeys(MEASURED, float))}


def tensor_rows(path: Path, heads: tuple[str, ...], classes: int) -> list[dict[str, Any]]:
    """One row a tensor, by name; one tensor at a time is in memory."""
    of_heads = {f"{head}.{part}" for head in heads for part in ("weight", "bias")} if classes else set()
    rows = []
    try:
        with safe_open(path, framework="numpy") as file:
            for name in sorted(file.keys()):
                rows.append({"file": path.name, "name": name, **statistics(file.get_tensor(name))})
                rows[-1]["learnt"] = not name.endswith(STATISTICS)
                rows[-1]["first_size_expected"] = classes if name in of_heads else rows[-1]["first_size"]
    except (OSError, SafetensorError, TypeError) as error:  # TypeError: a type NumPy does not have, such as bfloat16
        raise unreadable(path, str(error)) from None
    return rows


def statistics(values: np.ndarray) -> dict[str, Any]:
    """Shape and spread of a tensor, in double precision over its finite elements."""
    finite = values[np.isfinite(values)].astype(np.float64)
    return {
        "shape": " x ".join(str(size) for size in values.shape) or "scalar",
        "dtype": str(values.dtype),
        "dimensions": values.ndim,
        "elements": values.size,
        "first_size": values.shape[0] if values.ndim else 1,
        "finite_share": finite.size / values.size if values.size else 1.0,
        "max_abs": float(np.abs(finite).max()) if finite.size else math.nan,
        "std": float(finite.std()) if finite.size else math.nan,
    }


def course(rows: list[dict[str, float | None]], classes: int) -> dict[str, Any]:
    """What a history says in the end: {"epochs", "losses_not_finite", "loss_first", ...}; NaN where nothing was measured."""
    top1 = [value for row in rows if (value := row.get("val_top1")) is not None]
    losses = [value for row in rows for name in ("loss", "val_loss") if (value := row.get(name)) is not None]
    chance = 100 / classes if classes else math.nan
    facts: dict[str, Any] = {"epochs": len(rows), "losses_not_finite": sum(not math.isfinite(loss) for loss in losses)}
    for name in ("loss", "val_loss"):
        values = [value for row in rows if (value := row.get(name)) is not None]
        facts[f"{name}_first"], facts[f"{name}_last"] = (values[0], values[-1]) if values else (math.nan, math.nan)
        facts[f"{name}_ratio"] = values[-1] / values[0] if len(values) > 1 and values[0] else math.nan
    facts["val_top1"], facts["chance_top1"] = (top1[-1] if top1 else math.nan), chance
    facts["val_top1_over_chance"] = facts["val_top1"] / chance
    return facts


def read_history(path: Path) -> list[dict[str, float | None]]:
    """Rows of history.csv; an empty cell, which was not measured, is None. Raises Refusal."""
    try:
        with path.open(newline="") as file:
            return [{name: float(cell) if cell else None for name, cell in row.items()} for row in csv.DictReader(file)]
    except (OSError, ValueError, TypeError) as error:
        raise unreadable(path, str(error)) from None


def read_config(path: Path) -> dict[str, Any]:
    """config.json, as far as a gate looks at it. Raises Refusal."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise unreadable(path, str(error)) from None
    if not isinstance(config, dict):
        raise unreadable(path, f"it holds a JSON {type(config).__name__}, not an object")
    for key, kind in KINDS.items():
        if not isinstance(config.get(key, kind()), kind):
            raise unreadable(path, f"{key} is {config[key]!r}, where a JSON {kind.__name__} belongs")
    return config


def unreadable(path: Path, why: str) -> Refusal:
    """What to tell the person whose file cannot be looked at."""
    return Refusal(f"{path} cannot be read ({why}). `dvc checkout` brings it back, or its stage makes it again.")
