"""A throw-away project in which stages run their first steps: the code, the index and the shards of the real one, nothing else.

Models to learn from are untrained stand-ins, also where real ones lie: those may be of an earlier recipe, and only sizes count.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML

from stages.lib.core import files
from stages.lib.core.outcome import Ending
from stages.lib.data import fingerprint, label_store
from stages.lib.data.index import Index, read_index
from stages.lib.data.label_store import Facts
from stages.lib.data.subset import part
from stages.lib.models import stand_in
from stages.lib.params.everything import Everything
from stages.lib.training import forecast, took, trial

STEPS = forecast.WARM + forecast.STEADY
LAID = ("stages", "dvc.yaml", "data/index", "data/shards")
MEMORY = ("OutOfMemoryError", "MemoryError", "can't allocate memory", "SIGKILL", "out of memory")
NEVER = 1e9
"""Seconds until a checkpoint that is not asked for: the one at the end is measured by itself."""
LINES = 12
"""Of a failed stage's output that are shown."""


@dataclass(frozen=True)
class Tried:
    """How a stage's trial went; where `fault` is empty, what its run folder holds."""

    fault: str
    memory: bool = False
    """Whether it was memory that was short."""
    rows: tuple[dict[str, float], ...] = ()
    took: Mapping[str, float] | None = None
    checkpoint_bytes: int = 0
    identity: Mapping[str, Any] | None = None


def lay_out(folder: Path, params: Path, project: Path) -> None:
    """The project's folder, with `params` as its parameters and system's habits those of a trial."""
    for name in LAID:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to((project / name).resolve())
    (folder / "params.yaml").write_text(params.read_text())
    system = {"log_steps": forecast.ROW, "log_seconds": 1e-9, "checkpoint_seconds": NEVER, "max_restarts": 0}
    edit(folder / "params.yaml", ("system",), system)
    runs = folder / "runs"
    runs.mkdir()
    (runs / "shard-cache").symlink_to((files.root() / "shard-cache").resolve())  # what was fetched need not come again


def edit(path: Path, block: tuple[str, ...], values: Mapping[str, object]) -> None:
    """Set keys of a block, which may lie within another."""
    yaml = YAML()
    document = yaml.load(path)
    place = document
    for name in block:
        place = place[name]
    place.update(values)
    with path.open("w") as file:
        yaml.dump(document, file)


def training_images(folder: Path, params: Everything) -> Index:
    """Those of the main set that stages train on."""
    return part(read_index(folder / f"data/index/{params.sets.main}.parquet", "train"), params.data.subset)


def write_stand_ins(folder: Path, params: Everything) -> None:
    """Every model that a stage may learn from, and the answers of a teacher."""
    index = training_images(folder, params)
    classes, models = index.classes, folder / "data/models"
    stand_in.write_teacher(params.teacher, classes, models / "teacher")
    stand_in.write_mae(params.pretrain, models / "mae")
    stand_in.write_student(params.train, params.train.views.image_size, classes, models / "student")
    if params.transfer.model == "finetuned":
        stand_in.write_student(params.train, params.finetune.views.image_size, classes, models / "finetuned")
    if params.train.labels == "stored":
        write_labels(folder, params, len(index), len(classes))


def epochs_answered(params: Everything, images: int) -> int:
    """As many as a trial of `distill` reads and its schedule needs."""
    steps = max(1, images // params.train.views.batch_size)
    return -(-STEPS // steps) + 1 + int(params.train.schedule.warmup_epochs)


def write_labels(folder: Path, params: Everything, images: int, classes: int) -> None:
    """Answers to a few epochs. `distill` is tried with so few, which changes no step's cost; a whole store may be 17 GB."""
    train = params.train
    steps, epochs = images // train.views.batch_size, epochs_answered(params, images)
    views = train.views.model_copy(update={"epochs": epochs})
    index, teacher = folder / f"data/index/{params.sets.main}.parquet", folder / "data/models/teacher"
    percent, normalisation = params.data.subset, train.teacher_normalisation
    parts = fingerprint.parts_of(views, index, percent, teacher, normalisation, train.labelling.precision)
    positions, top_k = steps * train.views.batch_size, train.labelling.top_k
    facts = Facts(fingerprint.digest(parts), parts, epochs, positions, classes, top_k)
    even = np.log(1 / (top_k + 1))  # any finite answer will do
    arrays = {
        "hard": np.zeros(positions, np.int64),
        "classes": np.tile(np.arange(top_k), (positions, 1)),
        "log_probabilities": np.full((positions, top_k), even),
        "log_rest": np.full(positions, even),
    }
    store = folder / "data/labels/stored"
    store.mkdir(parents=True)
    for epoch in range(epochs):
        label_store.write_epoch(store / label_store.name_of(epoch), facts, epoch, arrays)
    label_store.write_facts(store, facts)


def rehearse(folder: Path, stage: str, set_name: str, params: Everything) -> Tried:
    """Run a stage's first steps. What it wrote is left in the folder."""
    if params.train.labels == "stored":
        images = len(training_images(folder, params))
        epochs = epochs_answered(params, images) if stage == "distill" else params.train.views.epochs
        edit(folder / "params.yaml", ("train", "views"), {"epochs": epochs})
    log = folder / "log"
    with log.open("w") as output:
        command = [sys.executable, "-m", f"stages.{stage}", set_name]
        done = subprocess.run(command, cwd=folder, env=environment(folder), stdout=output, stderr=subprocess.STDOUT)
    exits = sorted((folder / "runs").glob(f"{stage}*/last_exit.json"))
    killed = Ending(done.returncode, f"it left with {done.returncode}, killed outright", retryable=True)
    ending = Ending(**json.loads(exits[0].read_text())) if exits else killed
    said = log.read_text()
    if f"${trial.STEPS} ended" not in ending.reason:
        short = short_of_memory(done.returncode, said)
        tail = "\n".join(f"    {line}" for line in said.splitlines()[-LINES:])
        return Tried(ending.reason if ending.code == 2 else f"{ending.reason}\n{tail}", short)
    (run,) = (path.parent for path in (folder / "runs").glob(f"{stage}*/*/identity.json"))
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows = tuple(row for row in found if "rewind" not in row)  # a run that went back says so in a row without rates
    sizes = [path.stat().st_size for path in (run / "checkpoints").glob("step-*.pt")]
    took_here, identity = json.loads((run / took.NAME).read_text()), json.loads((run / "identity.json").read_text())
    return Tried("", False, rows, took_here, max(sizes, default=0), identity)


def short_of_memory(code: int, said: str) -> bool:
    """Whether a process that left with `code` (of subprocess: -9 is SIGKILL, with which the kernel makes room) lacked memory."""
    return code in (-9, 137) or any(word in said for word in MEMORY)


def environment(folder: Path) -> dict[str, str]:
    """Of a trial: runs in the folder, raw files where they are, this machine alone, and no DVC."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "PET_"))}
    places = {"TUTELAGE_RUNS": str(folder / "runs"), "TUTELAGE_RAW": str(files.raw_root().resolve())}
    return kept | places | {trial.STEPS: str(STEPS)}
