"""Ask a teacher about every view of an epoch, as fast as it goes, and how much a faster way changes of what it says.

On a GPU it is measured whether a teacher's convolutions want their channels last, and nothing is fetched before the epoch ends.
"""

import json
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from stages.lib.core import ranks, tell
from stages.lib.data.ahead import Meter, Waiting
from stages.lib.data.batch import Batch
from stages.lib.data.pixels import classifier_pixels
from stages.lib.models import teaching
from stages.lib.params.precision import Precision
from stages.lib.training import peak
from stages.lib.training.arrival import arriving
from stages.lib.training.fastest import preferred, shortest

log = logging.getLogger(__name__)
AHEAD = 2  # forward passes the host may be ahead of a GPU: their batches wait in memory
LAYOUTS = ("channels-last", "contiguous")
MEASURED = 64
"""Random images on which the layouts are compared."""


@dataclass(frozen=True)
class Way:
    """How the teacher is run. All but the precision only moves last bits, and with them a label now and then."""

    precision: Precision
    images: int = 0
    """At once; 0: a global batch, as beside a student."""
    channels_last: bool = False
    compiled: bool = False
    """As one graph, with fewer passes over memory."""


def logits_of(teacher: nn.Module, batches: list[Batch], way: Way) -> Tensor:
    """f[images, classes] of some global batches, on their device."""
    pixels = torch.cat([classifier_pixels(batch) for batch in batches])
    if way.channels_last:
        pixels = pixels.contiguous(memory_format=torch.channels_last)
    parts = pixels.split(way.images) if way.images else (pixels,)
    return torch.cat([teaching.ask(teacher, part, way.precision) for part in parts])


def laid_out(teacher: nn.Module, way: Way) -> nn.Module:
    """The teacher with its weights in the way's memory format."""
    return teacher.to(memory_format=torch.channels_last if way.channels_last else torch.contiguous_format)  # type: ignore[call-overload,no-any-return]


def layout(teacher: nn.Module, precision: Precision, image_size: int) -> str:
    """One of LAYOUTS: channels last, unless this teacher answers clearly faster with its channels first.

    cuDNN turns the images of grouped convolutions over before and after, where channels are last: on an H200 that was half the time
    of a RegNetY-16GF. Measured without compiling, which keeps calling cuDNN for them. The teacher is left with its channels first.
    """
    device = next(teacher.parameters()).device
    shape = MEASURED, 3, image_size, image_size
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(device)
    lying: list[str] = []

    def step_of(kind: str) -> Callable[[], object]:
        last = kind == "channels-last"
        form = torch.channels_last if last else torch.contiguous_format

        def step() -> object:
            if lying != [kind]:  # only in the first of a row of steps, which therefore does not count
                laid_out(teacher, Way(precision, channels_last=last))
                lying[:] = [kind]
            return teaching.ask(teacher, images.contiguous(memory_format=form), precision)

        return step

    try:
        return preferred(shortest({kind: step_of(kind) for kind in LAYOUTS}, device, turns=False))
    finally:
        laid_out(teacher, Way(precision))


def asked(teacher: nn.Module, way: Way) -> nn.Module:
    """The teacher as it is called in this way, with the same weights: laid out, and compiled if the way says so."""
    laid_out(teacher, way)
    return cast(nn.Module, torch.compile(teacher, dynamic=False)) if way.compiled else teacher


def passes(batches: Iterable[Batch], way: Way) -> Iterator[list[Batch]]:
    """As many global batches as are asked about at once; at least one."""
    held: list[Batch] = []
    for batch in batches:
        held.append(batch)
        if (len(held) + 1) * len(batch.images) > way.images:
            yield held
            held = []
    if held:
        yield held


class Answered:
    """The answers to an epoch's views, gathered on the device: 4 bytes a view, with top_k 6 * k + 4 more."""

    def __init__(self, positions: int, top_k: int, device: torch.device) -> None:
        self.top_k = top_k
        self.seen = torch.zeros(positions, dtype=torch.int32, device=device)
        self.tensors = {"hard": torch.empty(positions, dtype=torch.int32, device=device)}
        if top_k:
            self.tensors |= {
                "classes": torch.empty(positions, top_k, dtype=torch.int32, device=device),
                "log_probabilities": torch.empty(positions, top_k, dtype=torch.float16, device=device),
                "log_rest": torch.empty(positions, dtype=torch.float16, device=device),
            }

    def add(self, positions: Tensor, logits: Tensor) -> None:
        """positions: i64[B]; logits: f32[B, classes]."""
        found = {"hard": logits.argmax(-1)}
        if self.top_k:
            every = logits.log_softmax(-1)
            most, classes = every.topk(self.top_k)
            rest = every.scatter(1, classes, -torch.inf).logsumexp(-1)
            found |= {"classes": classes, "log_probabilities": most, "log_rest": rest}
        for name, values in found.items():
            self.tensors[name].index_copy_(0, positions, values.to(self.tensors[name].dtype))
        self.seen.index_add_(0, positions, torch.ones_like(positions, dtype=torch.int32))

    def arrays(self) -> dict[str, np.ndarray]:
        """As label_store writes them."""
        assert bool((self.seen == 1).all()), "a position of the epoch was answered twice, or never"
        return {name: tensor.cpu().numpy() for name, tensor in self.tensors.items()}


@torch.inference_mode()
def label_epoch(
    teacher: nn.Module,
    batches: Iterable[Batch],
    positions: int,
    top_k: int,
    way: Way,
    device: torch.device,
    after: Callable[[int], None],
) -> dict[str, np.ndarray]:
    """The teacher's answers to an epoch's batches, by position; after(images) is called after each forward pass."""
    answered, queued = Answered(positions, top_k, device), Queued(device)
    for some in passes(arriving(iter(batches), device), way):
        ask_about(teacher, some, answered, way)
        queued.one_more()
        after(sum(len(batch.images) for batch in some))
    return answered.arrays()


@torch.inference_mode()
def ask_about(teacher: nn.Module, some: list[Batch], answered: Answered, way: Way) -> None:
    """A forward pass: what the teacher says of these batches, noted by position. Nothing here waits for a GPU."""
    here = [batch.to(answered.seen.device) for batch in some]
    answered.add(torch.cat([batch.positions for batch in here]), logits_of(teacher, here, way))


class Queued:
    """Keeps the host from piling up work, and batches with it, before a GPU."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu, self.events = device.type == "cuda", deque[torch.cuda.Event]()

    def one_more(self) -> None:
        """Another pass was handed to the device; wait for the one AHEAD before it."""
        if self.on_gpu:
            event = torch.cuda.Event(blocking=True)
            event.record()
            self.events.append(event)
            if len(self.events) > AHEAD:
                self.events.popleft().synchronize()


@torch.inference_mode()
def flips(
    teacher: nn.Module, batches: Iterable[Batch], way: Way, device: torch.device, fast: nn.Module | None = None
) -> dict[str, float]:
    """Share of decisions that differ on some batches: `way` from the teacher beside a student, and that one from single precision.

    {"images", "from_live", "of_precision"}; the teacher is left laid out in `way`. fast: what `asked` made of it for this way.
    """
    live, single = Way(way.precision), Way("fp32")
    images = ours = theirs = 0
    for some in passes(batches, way):
        here = [batch.to(device) for batch in some]
        laid_out(teacher, way)
        own = logits_of(fast or teacher, here, way).argmax(-1)
        laid_out(teacher, live)
        beside = torch.cat([logits_of(teacher, [batch], live) for batch in here]).argmax(-1)
        exact = beside
        if live != single:
            exact = torch.cat([logits_of(teacher, [batch], single) for batch in here]).argmax(-1)
        images += len(beside)
        ours += int((own != beside).sum())
        theirs += int((beside != exact).sum())
    laid_out(teacher, way)
    return {"images": images, "from_live": ours / images, "of_precision": theirs / images}


class Progress:
    """Says every `log_seconds` how far and how fast, also in metrics.jsonl of the run folder; no part of a result."""

    def __init__(self, title: str, images: int, log_seconds: float, meter: Meter, folder: Path) -> None:
        """images: to be asked about from now on."""
        self.path = folder / "metrics.jsonl"
        self.title, self.images, self.log_seconds, self.meter = title, images, log_seconds, meter
        self.began = self.spoke = time.monotonic()
        self.done = self.said = 0
        self.waiting = Waiting()
        self.told = tell.Progress(title, images, folder)

    def add(self, epoch: int, images: int, device: torch.device) -> None:
        """Some more are done."""
        self.done += images
        now = time.monotonic()
        if now - self.spoke < self.log_seconds and self.done < self.images:
            return
        spent = max(now - self.spoke, 1e-9)
        left = (now - self.began) / self.done * (self.images - self.done)
        costs = ", ".join(f"{name.removesuffix('_ms')} {ms:.2f}" for name, ms in self.meter.milliseconds().items())
        log.info(
            "%s: epoch %d, %d of %d images, %.0f images/s, %.0f %% of the time waiting for data%s, %.0f s left",
            self.title,
            epoch,
            self.done,
            self.images,
            (self.done - self.said) / spent,
            100 * self.waiting.seconds / spent,
            f" (ms a view and thread: {costs})" if costs else "",
            left,
        )
        self.note(spent, device, left)
        self.spoke, self.said, self.waiting.seconds = now, self.done, 0.0

    def note(self, spent: float, device: torch.device, left: float) -> None:
        """A row of the first process, about its own epochs since the row before."""
        if not ranks.first():
            return
        rates = {"images_per_second": (self.done - self.said) / spent, "waiting_share": self.waiting.seconds / spent}
        self.told.say(self.done, left, rates)
        with self.path.open("a") as file:
            file.write(json.dumps({"images": self.done, **rates, "peak_bytes": peak.peak_bytes(device)}) + "\n")
