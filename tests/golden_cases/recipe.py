"""03_lr_groups, 03_lr_schedule, 06 and 07: parameter groups, learning rates and the repeated-augmentation sampler."""

import hashlib
import zlib
from collections import defaultdict
from typing import Any

import numpy as np

from stages.lib.data import order
from stages.lib.params.optimizer import Optimizer, Schedule
from stages.lib.training import optimizer, schedule
from tests.golden_cases.built import bare
from tests.golden_cases.reference import EXACT, Case

RATE = 1e-15
PART = 32  # images of one process in a batch, for order `deit`
Together = dict[tuple[int, ...], list[np.ndarray]]


def groups(case: Case) -> None:
    """Every parameter's layer, rate scale, decay and group, from the names and shapes of the reference's own model."""
    for one in case.data["cases"]:
        pooling = "averaged" if one["global_pool"] else "class token"
        row = f"{one['model']} {pooling} {one['layer_decay']}"
        depth, model = one["num_blocks"], bare(one["state_dict"])
        found = optimizer.groups(model, one["weight_decay"], one["layer_decay"], "none", depth)
        ours = {
            name: [optimizer.layer_id(name, depth), group["lr_scale"], group["weight_decay"], place]
            for place, group in enumerate(found)
            for name in group["names"]
        }
        case.same(row, sorted(ours), sorted(one["params"]), "names")
        for name, theirs in one["params"].items():
            for column, mine, other in zip(one["columns"], ours[name], theirs, strict=True):
                case.compare(row, mine, other, RATE, f"{name} {column}")
        scales = [optimizer.lr_scale(layer, one["layer_decay"], depth) for layer in range(one["num_layer_ids"])]
        case.compare(row, scales, one["scales"], RATE, "scales")
        case.same(row, len(found), one["num_groups"], "groups")
        case.same(row, sum(p.numel() for p in model.parameters()), one["total_numel"], "parameters")


def mae_rates(case: Case) -> None:
    """MAE's rate at fractional epochs."""
    for one in case.data["schedules"]:
        row = one["label"]
        case.compare(row, optimizer.peak_lr(_optimizer(one["blr"], 256), one["eff_batch"]), one["lr"], RATE, "peak")
        settings = (one["lr"], one["min_lr"], one["warmup_epochs"], one["epochs"])
        rates = np.array([schedule.mae_lr(epoch, *settings) for epoch in one["epochs_at"]])
        case.compare(row, rates, one["returned"], RATE)
        case.compare(row, rates, one["group_without_scale"], RATE)
        case.compare(row, rates * one["lr_scale"], one["group_with_lr_scale"], RATE, "a group with a scale")


def deit_rates(case: Case) -> None:
    """timm's value at every step(t), and the rate each epoch really trains with."""
    for one in case.data["schedules"]:
        row, epochs = one["label"], one["epochs"]
        peak = optimizer.peak_lr(_optimizer(one["lr"], 512), one["total_batch"])
        case.compare(row, peak, one["scaled_lr"], RATE, "peak")
        settings = (peak, one["min_lr"], one["warmup_lr"], one["warmup_epochs"], epochs)
        case.compare(row, schedule.deit_lr(0, *settings), one["lr_right_after_construction"], RATE, "start")
        values = [schedule.deit_value(t, *settings) for t in range(len(one["value_of_step_t"]))]
        case.compare(row, values, one["value_of_step_t"], RATE, "value of step(t)")
        if "lr_used_in_epoch" in one:
            rates = {name: one[name] for name in ("warmup_epochs", "min_lr", "warmup_lr")}
            cfg, steps = Schedule(kind="deit-epoch", **rates), 3  # an epoch; the rate is the same in each
            used = [schedule.learning_rate(cfg, peak, step, steps, epochs) for step in range(steps * epochs)]
            case.compare(row, used, np.repeat(one["lr_used_in_epoch"], steps), RATE, "rate in use")
    for one in case.data.get("scaling", []):
        peak = optimizer.peak_lr(_optimizer(one["base"], 512), one["batch_per_gpu"] * one["world"])
        case.compare("scaling", peak, one["scaled"], RATE, str(one))


def sampler(case: Case) -> None:
    """What each process gets, whole where stored and by checksums where not, and the global batches of order `deit`."""
    together: Together = defaultdict(list)
    for one in case.data["rows"]:
        row, key = f"{one['length']} images, {one['num_replicas']} processes", one["key"]
        settings = (*(one[name] for name in ("length", "num_repeats", "num_replicas", "rank", "epoch", "shuffle")),)
        selected, untruncated = order.deit_replica(*settings), order.deit_untruncated(*settings)
        counts = [len(selected), len(selected), len(untruncated), len(untruncated) * one["num_replicas"]]
        names = ("epoch_length", "num_selected_samples", "num_samples", "total_size")
        case.same(row, counts, [one[name] for name in names], key)
        if "sha256_int64_le" in one:
            for name, value in _checksums(selected, untruncated).items():
                case.same(row, value, one[name], f"{key} {name}")
            continue
        case.compare(row, selected, case.arrays[f"selected_{key}"], EXACT, key)
        case.compare(row, untruncated, case.arrays[f"untruncated_{key}"], EXACT, f"{key} untruncated")
        if one["shuffle"]:
            together[(*settings[:3], one["epoch"])].append(case.arrays[f"selected_{key}"])
    _global_batches(case, together)
    _permutations(case)


def _checksums(selected: np.ndarray, untruncated: np.ndarray) -> dict[str, Any]:
    return {
        "first50": selected[:50].tolist(),
        "last10": selected[-10:].tolist(),
        "sum": int(selected.sum()),
        "sha256_int64_le": _sha(selected),
        "crc32_int64_le": zlib.crc32(_bytes(selected)),
        "distinct": int(np.count_nonzero(np.bincount(selected))),
        "untruncated_last10": untruncated[-10:].tolist(),
        "untruncated_sha256": _sha(untruncated),
    }


def _permutations(case: Case) -> None:
    """The sampler's permutation: its list for one process and one repeat."""
    for one in case.data["permutations"]:
        ours = order.deit_untruncated(one["length"], 1, 1, 0, one["epoch"])
        row, key = "permutations", f"perm_n{one['length']}_e{one['epoch']}"
        case.same(row, _sha(ours), one["sha256_int64_le"], key)
        if "first50" in one:
            case.same(row, ours[:50].tolist(), one["first50"], key)
        if key in case.arrays:
            case.compare(row, ours, case.arrays[key], EXACT, key)


def _global_batches(case: Case, together: Together) -> None:
    """Order `deit` is the processes' lists side by side: batch s is everyone's s-th part, in their order."""
    for (length, repeats, replicas, epoch), lists in together.items():
        if len(lists) == replicas and length >= order.DEIT_UNIT:
            starts = range(0, len(lists[0]) // PART * PART, PART)
            theirs = np.concatenate([one[start : start + PART] for start in starts for one in lists])
            ours = order.deit(length, repeats, replicas, PART * replicas, epoch)
            case.compare("order deit", ours, theirs, EXACT, f"{length} images, {replicas} processes, epoch {epoch}")


def _optimizer(rate: float, images: int) -> Optimizer:
    return Optimizer(name="adamw", lr=rate, lr_per=images, weight_decay=0.05, decay_tokens="dist")


def _bytes(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array, dtype="<i8").tobytes()


def _sha(array: np.ndarray) -> str:
    return hashlib.sha256(_bytes(array)).hexdigest()
