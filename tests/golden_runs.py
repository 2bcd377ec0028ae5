"""The first 30 steps of every stage that trains, on a CPU: are their losses still what they were?

    python -m tests.golden_runs                     this working tree against tests/golden_runs.json; exit code 1 if a curve moved
    python -m tests.golden_runs --write             measure anew, replace the file, say which curves moved and by how much
    python -m tests.golden_runs <revision> <revision>   two git revisions, losses and weights to the bit; `.` is the working tree

A change that moves a curve has to say so in CHANGELOG.md, with `--write` in the same commit. Two equal revisions are the licence
for `dvc commit`: what was trained by one is what the other would train.

Every stage runs as a user runs it, with the revision's own params.yaml, as a trial of 30 steps; what it learns from is an untrained
stand-in, so that a change in one stage moves no other's curve. Both revisions get the same bytes: images, shards, index and
stand-ins are made once, by the first revision's code.
"""

import argparse
import contextlib
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from stages.lib.core import files, load
from stages.lib.core.outcome import Refusal
from stages.lib.params.everything import Everything
from stages.lib.training import rehearsal, took, trial
from stages.lib.training.checkpoint import Keeper
from tests.workspace import edit

ROOT = Path(__file__).parents[1]
FILE = Path(__file__).with_suffix(".json")
STEPS = 30
STAGES = ("teacher", "pretrain", "distill", "finetune", "transfer")
TREE = ("stages", "dvc.yaml", "params.yaml", "data/expectations")
PREFIX = "tutelage-golden-"
SYSTEM = {"device": "cpu", "threads": 1, "ranks": 1, "log_steps": 1, "log_seconds": 1e9, "checkpoint_seconds": 1e9}
"""Speed only; a row of the log for every step."""
TOLERANCE = 1e-5
"""Relative difference of a loss that rounding may make: another vector width, number of threads or choice of kernels moved the
transformers' curves by at most 2.2e-7, a learning rate 1 % higher by 2e-4 to 3e-3 (seen on one machine; docs/reliability.md)."""
HELD = {"teacher": 10}
"""Steps held so closely, where not all are: batch norm at a high rate makes much of rounding, 3e-7 by step 12, 1e-2 by step 30."""
LOOSE = 0.1
"""For steps after those; two revisions are compared to the bit all the same."""
MOVED = (
    "A change that moves a training curve must say so in CHANGELOG.md. If it is meant, run `python -m tests.golden_runs --write` "
    "and write there what moved; if it is not, it changed what is trained."
)
Curve = list[float]
Run = Callable[[Path, str, Sequence[str], Mapping[str, str]], None]
"""(folder, module, arguments, variables of the environment): `python -m module` to its end. Raises Failed."""


class Failed(Exception):
    """A stage that did not come to its 30th step; with the end of what it said."""


@dataclass(frozen=True)
class Row:
    """One stage of a comparison."""

    stage: str
    first: int | None
    """Step, counted from 1, at which the curves part; None: they do not."""
    difference: float
    """The largest, relative."""
    note: str = ""

    @property
    def equal(self) -> bool:
        """Nothing differs, and both ran."""
        return self.first is None and not self.note


def set_of(stage: str, params: Everything) -> str:
    """The data set a stage is given."""
    return params.sets.transfer[0] if stage == "transfer" else params.sets.main


def lay_out(folder: Path, tree: Path) -> Everything:
    """An empty project with a tree's code and parameters; returns the latter."""
    (folder / "data").mkdir(parents=True)
    for name in TREE:
        if name != "params.yaml":
            (folder / name).symlink_to(tree / name)
    shutil.copy(tree / "params.yaml", folder / "params.yaml")
    edit(folder, {f"system.{key}": value for key, value in SYSTEM.items()})
    theirs, ours = (load.parse((place / "params.yaml").read_text()) for place in (folder, ROOT))
    return Everything.model_validate({**ours, **theirs})  # a revision from before a block existed does not read it


def make_data(folder: Path, params: Everything, stages: Sequence[str], run: Run) -> None:
    """Shards, index and stand-ins that these stages read."""
    for name in sorted({set_of(stage, params) for stage in stages} | {params.sets.main}):
        for stage in ("scan", "ingest", "shard"):
            run(folder, f"stages.{stage}", [name], {})
    torch.manual_seed(0)
    rehearsal.write_stand_ins(folder, params)


def measured(folder: Path, stage: str, params: Everything, run: Run) -> Curve:
    """The loss of each of the first steps, as single precision has it."""
    run(folder, f"stages.{stage}", [set_of(stage, params)], {trial.STEPS: str(STEPS)})
    (log,) = (folder / "data/runs").glob(f"{stage}*/*/metrics.jsonl")
    steps_per_epoch = json.loads((log.parent / took.NAME).read_text())["steps_per_epoch"]
    curve = losses([json.loads(line) for line in log.read_text().splitlines()], steps_per_epoch)
    if len(curve) != STEPS:
        raise Failed(f"{stage} wrote {len(curve)} rows, not {STEPS}")
    return curve


def losses(rows: Sequence[Mapping[str, float]], steps_per_epoch: int) -> Curve:
    """Rows hold the mean over the epoch so far, in double precision: from one to the next, the step's own loss to its last bit."""
    found, sums = Curve(), 0.0
    for row in rows:
        within = (int(row["step"]) - 1) % steps_per_epoch + 1
        before = sums if within > 1 else 0.0
        sums = row["loss"] * within
        found.append(float(np.float32(sums - before)))
    return found


def kernels_of(folder: Path, stage: str) -> str:
    """What the run chose, as it recorded it."""
    found = [path.read_text() for path in (folder / "data/runs").glob(f"{stage}*/*/kernels.json")]
    return " ".join(found)


def compared(stage: str, one: Curve, other: Curve, allowed: Sequence[float] | None = None) -> Row:
    """Where and how far two curves part. allowed: relative difference, by step; None: not a bit."""
    apart = [abs(a - b) / max(abs(a), abs(b), 1e-30) for a, b in zip(one, other, strict=True)]
    limits = allowed or [0.0] * len(apart)
    beyond = [
        step
        for step, (difference, limit) in enumerate(zip(apart, limits, strict=True), 1)
        if not difference <= limit  # NaN is beyond
    ]
    return Row(stage, beyond[0] if beyond else None, max(apart))


def allowed(stage: str) -> list[float]:
    """What rounding may do to a curve, by step."""
    held = HELD.get(stage, STEPS)
    return [TOLERANCE] * held + [LOOSE] * (STEPS - held)


def against_file(curves: Mapping[str, Curve]) -> list[Row]:
    """These curves beside those that are kept."""
    kept = json.loads(FILE.read_text())["curves"]
    return [compared(stage, kept[stage], curve, allowed(stage)) for stage, curve in curves.items()]


def in_process(folder: Path, module: str, arguments: Sequence[str], variables: Mapping[str, str]) -> None:
    """`python -m module` in the folder. Raises Failed unless it finished, or ended as a trial does."""
    apart = ("TUTELAGE_", "DVC_", "PET_", "RANK", "WORLD_SIZE", "LOCAL_", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(apart)}
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(
        command, cwd=folder, env={**kept, **variables}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    refuse_unless_tried(module, done.returncode, done.stdout, trial.STEPS in variables)


def in_fork(module: str, arguments: list[str], variables: dict[str, str]) -> None:
    """The same in a fork that has imported what stages import (tests/forks.py)."""
    for name in [name for name in os.environ if name.startswith("TUTELAGE_")]:
        del os.environ[name]
    os.environ.update(variables)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def refuse_unless_tried(module: str, code: int, said: str, tried: bool) -> None:
    """Raises Failed unless a stage left as it should: a trial by refusing to make anything, all else with 0."""
    if not (f"${trial.STEPS} ended" in said if tried else code == 0):
        tail = "\n".join(said.splitlines()[-8:])
        raise Failed(f"{module} left with {code}:\n{tail}")


def measure(stages: Sequence[str], run: Run = in_process) -> dict[str, Curve]:
    """The curves of this working tree."""
    with _workplace() as place:
        params = lay_out(place / "project", ROOT)
        make_data(place / "project", params, stages, run)
        return {stage: measured(place / "project", stage, params, run) for stage in stages}


def write(curves: Mapping[str, Curve]) -> list[str]:
    """Replace the file; one line for each curve: how far it moved."""
    old = json.loads(FILE.read_text())["curves"] if FILE.exists() else {}
    lines = []
    for stage, curve in curves.items():
        if stage not in old:
            lines.append(f"{stage}: is new")
            continue
        row = compared(stage, old[stage], curve, allowed(stage))
        how = "did not move" if row.equal else f"MOVED from step {row.first} on"
        lines.append(f"{stage}: {how} (largest difference {row.difference:.1e})")
    content = {"about": f"Loss of the first {STEPS} steps. {MOVED}", "curves": {**old, **curves}}
    with files.replace(FILE) as temporary:
        temporary.write_text(_one_curve_a_line(content))
    return lines


def _one_curve_a_line(content: Mapping[str, Any]) -> str:
    curves = ",\n".join(f"  {json.dumps(stage)}: {json.dumps(curve)}" for stage, curve in content["curves"].items())
    return f'{{\n "about": {json.dumps(content["about"])},\n "curves": {{\n{curves}\n }}\n}}\n'


def revisions(one: str, other: str, stages: Sequence[str], run: Run = in_process) -> list[Row]:
    """Two revisions over the same data, bit for bit, weights after the last step too.

    Raises Failed where the first cannot make it, or a revision is none.
    """
    with _workplace() as place:
        params = []
        for name, revision in (("one", one), ("other", other)):
            tree = ROOT if revision == "." else unpacked(revision, place / f"{name}-tree")
            params.append(lay_out(place / name, tree))
        make_data(place / "one", params[0], stages, run)
        for kind in ("index", "shards", "models", "labels"):
            if (place / "one/data" / kind).exists():
                (place / "other/data" / kind).symlink_to(place / "one/data" / kind)
        return [_both(place, stage, params, run) for stage in stages]


def _both(place: Path, stage: str, params: Sequence[Everything], run: Run) -> Row:
    """One stage of both revisions."""
    curves: list[Curve] = []
    for name, one in zip(("one", "other"), params, strict=True):
        try:
            curves.append(measured(place / name, stage, one, run))
        except Failed as failed:
            return Row(stage, None, float("nan"), f"the {'first' if name == 'one' else 'second'} failed: {failed}")
    row = compared(stage, curves[0], curves[1])
    chosen = [kernels_of(place / name, stage) for name in ("one", "other")]
    if chosen[0] != chosen[1] and not row.equal:
        return Row(stage, row.first, row.difference, "with other kernels, so last bits may differ; compare again")
    if row.equal and (names := differing(*(weights(place / name, stage) for name in ("one", "other")))):
        return Row(
            stage, None, 0.0, f"equal losses, but after step {STEPS} these weights differ: {', '.join(names[:4])}"
        )
    return row


def weights(folder: Path, stage: str) -> dict[str, torch.Tensor]:
    """What the stage trained, as its checkpoint after the last step has it."""
    (run,) = {path.parents[1] for path in (folder / "data/runs").glob(f"{stage}*/*/checkpoints/step-*.pt")}
    state = Keeper(run, 1e9, 2).restore(torch.device("cpu"))
    if state is None or state["step"] != STEPS:
        raise Failed(f"{stage} left no checkpoint after step {STEPS}")
    found: dict[str, torch.Tensor] = state["objective"]
    return found


def differing(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of tensors that are not the same bits."""
    return sorted(
        name
        for name in one.keys() | other.keys()
        if name not in one or name not in other or not torch.equal(one[name], other[name])
    )


def unpacked(revision: str, tree: Path) -> Path:
    """What of a revision a stage needs, in a folder of its own: git is asked for the files, and knows of no work tree."""
    tree.mkdir()
    archive = tree.with_suffix(".tar")
    command = ["git", "-C", str(ROOT), "archive", f"--output={archive}", "--end-of-options", revision, *TREE]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise Failed(f"git has no such revision, or it has no stages: {revision}: {done.stderr.strip()}")
    with tarfile.open(archive) as packed:
        packed.extractall(tree, filter="data")
    if not (tree / "stages/lib/training/trial.py").exists():
        raise Failed(
            f"{revision} is from before stages could be tried (stages/lib/training/trial.py): it cannot be compared"
        )
    return tree


@contextlib.contextmanager
def _workplace() -> Iterator[Path]:
    """A temporary folder, removed also when this process is asked to stop; those of killed processes are removed first."""
    here = Path(tempfile.gettempdir())
    for left in here.glob(f"{PREFIX}*"):
        owner = left.name.removeprefix(PREFIX).partition("-")[0]
        if owner.isdecimal() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-") as place:
        yield Path(place)


def table(rows: Sequence[Row]) -> str:
    """For people."""
    head = f"{'stage':10} {'equal':6} {'first differing step':>20} {'largest difference':>19}"
    lines = [
        f"{row.stage:10} {'yes' if row.equal else 'NO':6} {row.first or '-':>20} {row.difference:19.2e}  {row.note}".rstrip()
        for row in rows
    ]
    return "\n".join([head, *lines])


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 equal, or written; 1 something differs or failed; 2 a wrong call."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden_runs", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("revision", nargs="*", help="two git revisions, or . for the working tree")
    parser.add_argument("--write", action="store_true", help="replace the kept curves by this working tree's")
    parser.add_argument("--stages", default=",".join(STAGES), help="some of: %(default)s")
    options = parser.parse_args(arguments)
    stages = options.stages.split(",")
    if len(options.revision) not in (0, 2) or (options.revision and options.write):
        parser.error("name two revisions, or none")
    if unknown := set(stages) - set(STAGES):
        parser.error(f"no such stage: {', '.join(sorted(unknown))}; there are {', '.join(STAGES)}")
    signal.signal(signal.SIGTERM, _leave)
    try:
        return _do(options.revision, options.write, stages)
    except (Failed, Refusal) as failed:
        print(failed, file=sys.stderr)  # noqa: T201
        return 1


def _do(pair: Sequence[str], writes: bool, stages: Sequence[str]) -> int:
    if writes:
        print("\n".join([*write(measure(stages)), MOVED]))  # noqa: T201
        return 0
    rows = revisions(pair[0], pair[1], stages) if pair else against_file(measure(stages))
    print(table(rows))  # noqa: T201
    if all(row.equal for row in rows):
        return 0
    if not pair:
        print(MOVED)  # noqa: T201
    return 1


def _leave(_signum: int, _frame: object) -> NoReturn:
    """By an exception, so that what is temporary is removed."""
    raise SystemExit(128 + signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
