"""Ask the teacher about every view of every epoch, once, for all students, alphas, temperatures and kinds of distillation.

in    data/index/<set>.parquet    where every image lies in the shards
      data/models/teacher
out   data/labels/stored          a file an epoch and store.json (stages/lib/data/label_store.py); with train.labels: live a
                                  store.json that says so, at once
      <run root>/label/<identity> the files as they are finished: a killed run goes on with the next epoch
run   dvc repro -s label

Epochs are dealt to processes: rank r of W asks about epochs r, r + W, ... They exchange nothing but files.
"""

import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from stages.lib.core import files, load, ranks, runs
from stages.lib.core.outcome import Refusal
from stages.lib.core.ranks import Rank
from stages.lib.core.runs import Run
from stages.lib.core.signals import Stopped, Watch
from stages.lib.data import fingerprint, label_store
from stages.lib.data.batch import Batch
from stages.lib.data.batches import Stream, batches
from stages.lib.data.classifier_stream import stream_of
from stages.lib.data.index import read_index
from stages.lib.data.label_store import Damaged, Facts
from stages.lib.data.published import shards_of
from stages.lib.data.shards import ShardReader
from stages.lib.data.subset import part
from stages.lib.models import teaching
from stages.lib.params.data import Data
from stages.lib.params.labelling import MOST_CLASSES, Labelling, TrainLabels, TrainTeacher, TrainTeacherNormalisation
from stages.lib.params.published import PublishedUri
from stages.lib.params.system import System
from stages.lib.params.views import Views
from stages.lib.training import kernels, labelling, launcher, machine, trial
from stages.lib.training.labelling import Progress, Way
from stages.lib.training.took import Took
from stages.lib.training.trial import TrialOver

log = logging.getLogger(__name__)
TEACHER, STORE = Path("data/models/teacher"), Path("data/labels/stored")
MEASURED = 4  # batches on which flipped labels are counted
LOOK_SECONDS = 0.5  # between two looks at what other processes have finished


@dataclass(frozen=True)
class Work:
    """One process's part of the labelling."""

    facts: Facts
    stream: Stream
    teacher: nn.Module
    way: Way
    device: torch.device
    run: Run
    rank: Rank
    system: System
    watch: Watch

    def path(self, epoch: int) -> Path:
        """Where an epoch's file is built."""
        return self.run.folder / label_store.name_of(epoch)

    def batches_of(self, epoch: int) -> Iterator[Batch]:
        """Global batches of an epoch: processes share epochs, not batches."""
        steps = self.stream.steps_per_epoch
        first, last = epoch * steps, (epoch + 1) * steps
        return batches(self.stream, first, last, Rank(), self.system.workers, self.system.prefetch)


def main() -> None:
    """Ask, or go on asking; link what was said into place."""
    set_name = sys.argv[1]
    views, system = load.load_item("train", "views", Views), load.load("system", System)
    data, labels = load.load("data", Data), load.load_item("train", "labels", TrainLabels)
    answering = load.load_item("train", "labelling", Labelling)
    taught_by = load.load_item("train", "teacher", TrainTeacher)
    normalisation = load.load_item("train", "teacher_normalisation", TrainTeacherNormalisation)
    rank = ranks.current()
    if labels.root == "live":
        if rank.index == 0:
            label_store.write_live(STORE)
            log.info("label: train.labels is live, nothing is stored")
        return
    if taught_by.root == "none":
        raise Refusal("train.labels: stored needs train.teacher: teacher to ask; without a teacher set labels to live.")
    index_path = Path(f"data/index/{set_name}.parquet")
    shards = shards_of(set_name, load.load_optional("shard", "published_uri", PublishedUri), system)
    index = part(read_index(index_path, "train"), data.subset)
    stream = stream_of(views, index, ShardReader(index, shards), 0)
    parts = fingerprint.parts_of(views, index_path, data.subset, TEACHER, normalisation.root, answering.precision)
    positions = stream.steps_per_epoch * views.batch_size
    facts = Facts(fingerprint.digest(parts), parts, views.epochs, positions, len(index.classes), answering.top_k)
    must_be_storable(facts)
    watch = Watch()
    with runs.open_run(
        "label", None, [views, data, answering, normalisation], [index_path, TEACHER], rank.index == 0
    ) as run:
        device = machine.prepare(run, system)
        must_be_shared(run)
        stream = replace(stream, pinned=device.type == "cuda")
        teacher = teaching.load(TEACHER, index.classes, normalisation.root).to(device)
        way = way_of(answering, run, system, teacher, views.image_size)
        work = Work(facts, stream, teacher, way, device, run, rank, system, watch)
        ask(work, missing(work, range(rank.index, views.epochs, rank.world)))
        if rank.index == 0:
            wait_for_others(work)
            publish(work)


def must_be_shared(run: Run) -> None:
    """Raise Refusal where this process does not see the folder that the first one has opened: epochs are handed over in it."""
    if not run.folder.exists():
        raise Refusal(
            f"Processes on several machines label together through files, and {run.folder} is not the same folder here as on the "
            "first machine. Set TUTELAGE_RUNS to one that all can see, or label on one machine."
        )


def must_be_storable(facts: Facts) -> None:
    """Raise Refusal where a class is no 16-bit number, or more classes are asked for than there are."""
    if facts.classes > MOST_CLASSES:
        raise Refusal(
            f"The set has {facts.classes:,} classes, and stored labels are 16-bit numbers: at most {MOST_CLASSES:,}. "
            "Set train.labels to live."
        )
    if facts.top_k > facts.classes:
        raise Refusal(
            f"train.labelling.top_k is {facts.top_k} and the set has {facts.classes} classes; take 0 (decisions alone) to "
            f"{facts.classes} (all probabilities, exact)."
        )


def way_of(answering: Labelling, run: Run, system: System, teacher: nn.Module, image_size: int) -> Way:
    """How the teacher is run here: chosen at the first start and kept on resume, like the device, since it moves last bits."""
    weights = list(teacher.parameters())
    device = weights[0].device
    last = system.label_compile  # compiling moves last bits by itself, so nothing is lost
    if device.type == "cuda":
        sizes = ["label", device.type, answering.precision, image_size, [list(weight.shape) for weight in weights]]
        measure = lambda: {"layout": labelling.layout(teacher, answering.precision, image_size)}  # noqa: E731
        last = kernels.chosen(run, {"layout": labelling.LAYOUTS}, sizes, measure)["layout"] == "channels-last"
    chosen = {"images": system.label_batch, "channels_last": last, "compiled": system.label_compile}
    kept = machine.remembered(run, "forward", chosen)
    if kept != chosen:
        log.info("label: keeping this run's forward passes %s; `system` would now choose %s", kept, chosen)
    way = Way(answering.precision, kept["images"], kept["channels_last"], kept.get("compiled", False))
    if way.compiled:
        try:
            kernels.refuse_without_compiler(device)
        except Refusal as refusal:
            raise Refusal(f"system.label_compile: {refusal}") from None
    return way


def missing(work: Work, epochs: range) -> list[int]:
    """The epochs whose files are not there yet, or no longer hold what was written."""
    found = [epoch for epoch in epochs if not is_whole(work, epoch)]
    if len(found) < len(epochs):
        log.info("label: going on, %d of %d epochs are there", len(epochs) - len(found), len(epochs))
    return found


def is_whole(work: Work, epoch: int) -> bool:
    """Whether an epoch's file is there with every byte that was written."""
    path = work.path(epoch)
    if not path.exists():
        return False
    try:
        label_store.verified(path, work.facts, epoch)
        return True
    except Damaged as damaged:
        log.warning("label: %s; the teacher is asked again", damaged)
        return False


def ask(work: Work, epochs: Sequence[int]) -> None:
    """Ask about these epochs. Raises Stopped between two forward passes when asked to stop."""
    if not epochs:
        return
    teacher = labelling.asked(work.teacher, work.way)
    if work.rank.index == 0:
        say_flips(work, epochs[0], teacher)
    facts, steps, folder = work.facts, work.stream.steps_per_epoch, work.run.folder
    progress = Progress("label", len(epochs) * facts.positions, work.system.log_seconds, work.stream.meter, folder)
    tried = trial.limit() * work.stream.batch_size
    with Took(folder, epochs=facts.epochs, steps_per_epoch=steps, batch_size=work.stream.batch_size) as took:
        for epoch in epochs:

            def after(images: int, epoch: int = epoch) -> None:
                progress.add(epoch, images, work.device)
                took.here["steps"] += images / work.stream.batch_size
                if work.watch.signum is not None:
                    raise Stopped(work.watch.signum)
                if 0 < tried <= progress.done:
                    raise TrialOver

            arrays = labelling.label_epoch(
                teacher,
                progress.waiting.through(work.batches_of(epoch)),
                facts.positions,
                facts.top_k,
                work.way,
                work.device,
                after,
            )
            with took.aside("saving"):
                label_store.write_epoch(work.path(epoch), facts, epoch, arrays)
            took.write()
        if tried:
            raise TrialOver


def say_flips(work: Work, epoch: int, teacher: nn.Module) -> None:
    """How many labels this way of asking changes, on the first batches; in the log and in flips.json of the run folder."""
    some = (batch for _, batch in zip(range(MEASURED), work.batches_of(epoch), strict=False))
    found = labelling.flips(work.teacher, some, work.way, work.device, teacher)
    log.info(
        "label: on the first %d views %.3g %% of the labels differ from those of a teacher beside a student (asked about %s images "
        "at once, %s%s)",
        found["images"],
        100 * found["from_live"],
        work.way.images or work.facts.parts["train.views"]["batch_size"],
        "channels last" if work.way.channels_last else "channels first",
        ", compiled" if work.way.compiled else "",
    )
    if work.way.precision != "fp32":
        log.info("label: %s changes %.3g %% of the labels of fp32", work.way.precision, 100 * found["of_precision"])
    with files.replace(work.run.folder / "flips.json") as temporary:
        temporary.write_text(json.dumps(found) + "\n")


def wait_for_others(work: Work) -> None:
    """Return when every epoch's file is there. Files appear whole, so this is all the barrier there is; whoever starts several
    processes ends them all when one fails, which ends the waiting too.

    Raises Stopped when asked to stop, OSError where another process's file was damaged: the same command writes it again.
    """
    others = [epoch for epoch in range(work.facts.epochs) if epoch % work.rank.world != work.rank.index]
    said = time.monotonic()
    while absent := [epoch for epoch in others if not work.path(epoch).exists()]:
        if work.watch.signum is not None:
            raise Stopped(work.watch.signum)
        if time.monotonic() - said > work.system.log_seconds:
            said = time.monotonic()
            log.info("label: waiting for %d epochs of other processes", len(absent))
        time.sleep(LOOK_SECONDS)
    if damaged := [epoch for epoch in others if not is_whole(work, epoch)]:
        raise OSError(f"the files of epochs {damaged} were damaged; the same command writes them again")


def publish(work: Work) -> None:
    """Link (or, on another disk, copy) every file into a new folder, then swap: never half a store under the name."""
    label_store.write_facts(work.run.folder, work.facts)
    with files.replace_folder(STORE) as new:
        for name in [label_store.FACTS, *map(label_store.name_of, range(work.facts.epochs))]:
            try:
                os.link(work.run.folder / name, new / name)
            except OSError:
                with files.replace(new / name) as temporary:
                    shutil.copyfile(work.run.folder / name, temporary)
    size = sum(path.stat().st_size for path in STORE.iterdir())
    log.info("label: %d epochs of %d views, %.1f MB", work.facts.epochs, work.facts.positions, size / 1e6)


if __name__ == "__main__":
    launcher.run("label", main)
