"""How much faster a distillation step is with stored labels than with the teacher running beside the student.

    python -m benchmarks.labels [--device cpu] [--batch 8] [--students tiny,small,base] [--precisions fp32,bf16] [--json]

Steps of DeiT as the presets train it at 224 px (forward, backward, AdamW) on mixed images, against a RegNetY-16GF of random
weights, in turns in one process (benchmarks/interleaved.py). Stored: labels read by position from a file of as many views as an
epoch of ImageNet has. Live: the teacher's forward pass in the student's number format. Making batches is the same for both and
left out.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks import machine
from benchmarks.interleaved import Comparison, compare
from benchmarks.row import Row
from stages.lib.core import load
from stages.lib.core.outcome import Refusal
from stages.lib.data import label_store
from stages.lib.data.batch import Batch
from stages.lib.data.fingerprint import digest
from stages.lib.data.label_store import Facts, Store
from stages.lib.data.mixing import Mix
from stages.lib.models import deit, teacher
from stages.lib.models.precision import autocast
from stages.lib.objectives.distill import Distill, recipe
from stages.lib.params.everything import Everything
from stages.lib.params.precision import Precision
from stages.lib.params.train import Train
from stages.lib.training import optimizer

PRESETS = Path("presets")
GOALS = {"tiny": 3.5, "small": 1.9, "base": 1.25}
"""Least ratio that is wanted for each DeiT."""
TEACHER, CLASSES, EPOCH = "regnety_160", 1000, 1_281_024


class Step:
    """A student under the clock; one draw is one step."""

    ahead, extra = 0, 0.0

    def __init__(self, cfg: Train, asked: nn.Module | None, store: Store, batch: Batch, precision: Precision) -> None:
        """asked: the live teacher; None: the store's labels."""
        device = batch.images.device
        torch.manual_seed(0)
        student = deit.create(cfg.model, cfg.views.image_size, CLASSES, True, cfg.drop_path)
        deit.fresh_heads(student, CLASSES, cfg.head_std, torch.Generator().manual_seed(0))
        self.objective: Distill = recipe(
            student, asked, "hard", cfg, CLASSES, answered=asked is None, teacher_precision=precision
        ).to(device)
        self.objective.train()
        self.optimizer = optimizer.build(cfg.optimizer, student, cfg.model.depth)
        self.store, self.batch, self.precision, self.asked = store, batch, precision, asked
        self.first = 0

    def draw(self) -> int:
        """Images of a step that has really ended."""
        batch, count = self.batch, len(self.batch.images)
        if self.asked is None:
            positions = np.arange(self.first, self.first + count) % EPOCH
            batch = with_answers(batch, self.store, positions)
            self.first += count
        with autocast(batch.images.device, self.precision):
            losses = self.objective(batch)
        self.optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        self.optimizer.step()
        if batch.images.is_cuda:
            torch.cuda.synchronize()
        return count

    def close(self) -> None:
        """Nothing works by itself."""


def with_answers(batch: Batch, store: Store, positions: np.ndarray) -> Batch:
    """The batch with stored answers, on its device."""
    answers = store.answers(0, positions).to(batch.images.device)
    return Batch(batch.images, batch.labels, batch.positions, keep=batch.keep, mixes=batch.mixes, answers=answers)


def batch_of(count: int, size: int, depth: int, device: torch.device) -> Batch:
    """Random images in one mixing group."""
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 3, size, size), dtype=torch.uint8, generator=rng)
    labels, keep = torch.randint(CLASSES, (count,), generator=rng), torch.rand(count, depth, 2, generator=rng)
    return Batch(images, labels, torch.arange(count), keep=keep, mixes=(Mix(0.7, None),)).to(device)


def store_in(folder: Path) -> Store:
    """Decisions about an epoch of ImageNet's length."""
    parts = {"of": "a benchmark"}
    facts = Facts(digest(parts), parts, 1, EPOCH, CLASSES, 0)
    hard = np.random.default_rng(0).integers(0, CLASSES, EPOCH)
    label_store.write_epoch(folder / label_store.name_of(0), facts, 0, {"hard": hard})
    label_store.write_facts(folder, facts)
    return Store(folder, parts, CLASSES, soft=False)


def rows(options: argparse.Namespace, device: torch.device) -> Iterator[Row]:
    """A row a student and number format."""
    asked = teacher.create(TEACHER, None, CLASSES)
    with tempfile.TemporaryDirectory(prefix="tutelage-benchmark-") as name:
        store = store_in(Path(name))
        for size in options.students:
            cfg = load.whole(Everything, PRESETS / f"imagenet-deit-{size}.yaml").train
            batch = batch_of(options.batch, cfg.views.image_size, cfg.model.depth, device)
            for precision in options.precisions:
                sides = [Step(cfg, one, store, batch, precision) for one in (None, asked)]
                found = Comparison(*compare(sides, options.seconds, 1))
                ours, reference = (
                    statistics.median(one.rate for one in side) for side in (found.ours, found.reference)
                )
                path = f"DeiT {size} at {cfg.views.image_size} px, {precision}, batch {options.batch}, {device.type}"
                note = f"reference: {TEACHER} live; by CPU time {found.cpu_ratio:.2f}x" if device.type == "cpu" else ""
                yield Row(path, ours, reference, found.ratio, GOALS[size], "images/s", note=note)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 0, 1 where a goal was missed, or 2 where a person has to put something right."""
    options = _options(arguments)
    try:
        device = _device(options)
        sys.stderr.write(f"{machine.description()}\n")
        reached = True
        with machine.alone():
            for row in rows(options, device):
                sys.stdout.write(f"{row.json() if options.json else row.text()}\n")
                sys.stdout.flush()
                reached &= row.reached
        return int(not reached)
    except Refusal as refusal:
        sys.stderr.write(f"{refusal}\n")
        return 2


def _device(options: argparse.Namespace) -> torch.device:
    """Where it runs; a CPU by as many cores as asked. Raises Refusal."""
    for name, known in (("students", GOALS), ("precisions", ("fp32", "bf16"))):
        if unknown := [one for one in getattr(options, name) if one not in known]:
            raise Refusal(f"--{name}: {', '.join(map(repr, unknown))} is none of {', '.join(known)}")
    if options.batch < 2 or options.batch % 2 or options.seconds <= 0:
        raise Refusal(f"--batch {options.batch} has to be even, since images are mixed in pairs, and --seconds above 0")
    there = torch.cuda.is_available()
    kind = ("cuda" if there else "cpu") if options.device == "auto" else options.device
    if kind == "cuda" and not there:
        raise Refusal("--device cuda: no CUDA device is here; take cpu")
    if kind == "cpu":
        machine.pin(options.cores)
    return torch.device(kind)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.labels", description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default: %(default)s)")
    parser.add_argument(
        "--batch", type=int, default=8, help="images in a batch; some 256 for a GPU (default: %(default)s)"
    )
    parser.add_argument("--cores", type=int, default=1, help="of a CPU, for either side (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=8.0, help="timed, a side and row (default: %(default)s)")
    parser.add_argument("--students", type=_names, default=list(GOALS), help="some of: tiny,small,base")
    parser.add_argument("--precisions", type=_names, default=["fp32", "bf16"], help="some of: fp32,bf16")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    return parser.parse_args(arguments)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
