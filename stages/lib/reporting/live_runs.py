"""What run folders say now, for the live page: what runs, how far it is, what runs took. Read as they are, whatever they are.

Others write these files while they are read, and a power cut may have left halves. So nothing here is an error: what cannot be
read is left out and named.
"""

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages.lib.core import run_folders, tell
from stages.lib.params.credentials import masked

TAIL_BYTES = 1 << 16
"""Of metrics.jsonl, that are looked at."""
LARGEST_BYTES = 1 << 22
"""Of a JSON file."""
RECENT = 5
"""Rows whose rates are averaged."""
PARTS = ("startup", "training", "validation", "saving")
HELD = re.compile(r"process (\d{1,10}) on ")


@dataclass
class Trouble:
    """What could not be read, each in a sentence."""

    sentences: list[str] = field(default_factory=list)

    def say(self, path: Path, what: object) -> None:
        """About a file."""
        self.sentences.append(masked(f"{path} {what}"))


@dataclass(frozen=True)
class Run:
    """The newest run folder of a stage that trains or labels."""

    stage: str
    folder: Path
    holder: str
    """Who holds it now: the process that runs it; empty where none does."""
    changed: float
    """Seconds since the epoch: the last change of any of its files."""
    took: Mapping[str, float] | None
    step: float | None
    steps: float | None
    """Of the whole run, where something says."""
    seconds_left: float | None
    numbers: Mapping[str, float]
    """Loss and rates of late."""
    gpus: int | None
    """That it ran on; None where it is not known."""
    identity: Mapping[str, Any]

    @property
    def seconds(self) -> float | None:
        """That it took so far, up to its last checkpoint."""
        return sum(self.took[f"{part}_seconds"] for part in PARTS) if self.took else None

    @property
    def done(self) -> bool:
        """Whether every step was taken."""
        return bool(self.took and self.steps and self.took["steps"] >= self.steps)


@dataclass(frozen=True)
class Ended:
    """How a stage ended the last time."""

    when: float
    """Seconds since the epoch."""
    code: int
    reason: str


@dataclass(frozen=True)
class Found:
    """All of it."""

    root: Path
    runs: Mapping[str, Run]
    ended: Mapping[str, Ended]
    preflight: Mapping[str, Mapping[str, Any]]
    """What was predicted, by stage."""
    throughput: Mapping[str, Mapping[str, Any]]
    """By model, as `python -m stages.throughput` wrote it."""
    bytes: int
    """Of all run folders."""
    trouble: list[str]


def read(root: Path) -> Found:
    """What lies in the run root. Raises nothing."""
    trouble = Trouble()
    predicted = _predicted(root / "preflight.json", trouble)
    runs, size = _runs(root, predicted, trouble)
    ended = {
        path.parent.name: one
        for path in sorted(root.glob("*/last_exit.json"))
        if (one := _ended(path, trouble)) is not None
    }
    throughput = {
        path.stem: content
        for path in sorted((root / "throughput").glob("*.json"))
        if (content := record(path, trouble)) is not None
    }
    return Found(root, runs, ended, predicted, throughput, size, trouble.sentences)


def record(path: Path, trouble: Trouble) -> dict[str, Any] | None:
    """A JSON object; None where there is none, or something else, which is named."""
    try:
        if path.stat().st_size > LARGEST_BYTES:
            trouble.say(path, f"has more than {LARGEST_BYTES:,} bytes and was not read")
            return None
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        trouble.say(path, f"cannot be read ({type(error).__name__})")
        return None
    if not isinstance(content, dict):
        trouble.say(path, "holds no JSON object")
        return None
    return content


def number(value: object) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def numbers(content: Mapping[str, Any]) -> dict[str, float]:
    """Those of the values that are finite numbers."""
    return {str(name): value for name, given in content.items() if (value := number(given)) is not None}


def _runs(root: Path, predicted: Mapping[str, Any], trouble: Trouble) -> tuple[dict[str, Run], int]:
    """The newest folder of each stage, or the one that is in use; and the bytes of all."""
    found: dict[str, Run] = {}
    size = 0
    try:
        folders = run_folders.folders(root)
    except OSError as error:
        trouble.say(root, f"cannot be listed ({type(error).__name__})")
        return {}, 0
    for one in folders:
        size += one.bytes
        try:
            holder = masked(run_folders.holder(one.path))
        except OSError:
            holder = ""
        if one.newest or holder:
            found[one.stage] = _run(one, holder, predicted.get(one.stage, {}), trouble)
    return found, size


def _run(one: run_folders.Folder, holder: str, forecast: Mapping[str, Any], trouble: Trouble) -> Run:
    identity = record(one.path / "identity.json", trouble) or {}
    took = _took(one.path / "took.json", trouble)
    rows = _rows(one.path / "metrics.jsonl", trouble)
    last = rows[-1] if rows else {}
    batch = (took or {}).get("batch_size") or number(forecast.get("batch_size")) or 0.0
    step = last.get("step", last["images"] / batch if "images" in last and batch else None)
    steps = _steps(took) or (_steps(forecast) if forecast and is_of(forecast, identity) else None)
    rates = [row["images_per_second"] for row in rows[-RECENT:] if row.get("images_per_second")]
    said = _told(holder) if holder else {}
    left = number(said.get("seconds_left"))
    step, steps = number(said.get("step")) or step, number(said.get("steps")) or steps
    if left is None and holder and rates and batch and step is not None and steps:
        left = max(0.0, steps - step) * batch / (sum(rates) / len(rates))
        left *= _overhead(took)
    return Run(
        one.stage, one.path, holder, one.changed, took, step, steps, left, last, _gpus(one.path, trouble), identity
    )


def is_of(forecast: Mapping[str, Any], identity: Mapping[str, Any]) -> bool:
    """Whether a forecast is of this very recipe and index (as `python -m stages.preflight --compare` has it)."""
    inputs = identity.get("inputs")
    here = inputs.values() if isinstance(inputs, dict) else ()
    return forecast.get("params") == identity.get("params") and forecast.get("index_sha256") in here


def _steps(course: Mapping[str, Any] | None) -> float | None:
    """Epochs times steps, where both are said."""
    epochs, steps = (number((course or {}).get(name)) for name in ("epochs", "steps_per_epoch"))
    return epochs * steps if epochs and steps else None


def _overhead(took: Mapping[str, float] | None) -> float:
    """By how much validating and saving stretch a run, so far."""
    if not took or took["training_seconds"] <= 0:
        return 1.0
    return 1 + (took["validation_seconds"] + took["saving_seconds"]) / took["training_seconds"]


def _took(path: Path, trouble: Trouble) -> dict[str, float] | None:
    content = record(path, trouble)
    if content is None:
        return None
    found = numbers(content)
    if missing := [name for name in ("steps", *(f"{part}_seconds" for part in PARTS)) if name not in found]:
        trouble.say(path, f"says nothing of {missing[0]}")
        return None
    return found


def _rows(path: Path, trouble: Trouble) -> list[dict[str, float]]:
    """The last whole rows; one that is being written is none yet."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            skipped = file.tell() > 0
            lines = file.read(TAIL_BYTES).splitlines(keepends=True)
    except FileNotFoundError:
        return []
    except OSError as error:
        trouble.say(path, f"cannot be read ({type(error).__name__})")
        return []
    found, broken = [], 0
    for line in lines[1 if skipped else 0 :]:
        if not line.endswith(b"\n"):
            continue
        try:
            row = numbers(json.loads(line))
        except (ValueError, AttributeError, RecursionError):
            broken += 1
            continue
        if "images_per_second" in row:  # others tell of a run that went back
            found.append(row)
    if broken:
        trouble.say(path, f"has {broken} lines that are no rows")
    return found


def _told(holder: str) -> dict[str, Any]:
    """progress.json of the folder that a flow gave the process which holds a run; nothing for a stage that DVC alone started.

    Of the process's variables, that one is taken and no other kept.
    """
    match = HELD.match(holder)
    if match is None or not holder.endswith(f" on {os.uname().nodename}"):
        return {}
    try:
        variables = Path(f"/proc/{match[1]}/environ").read_bytes().split(b"\0")
    except OSError:
        return {}
    places = [one.partition(b"=")[2] for one in variables if one.startswith(f"{tell.TELL}=".encode())]
    return (record(Path(os.fsdecode(places[0])) / "progress.json", Trouble()) or {}) if places else {}


def _gpus(folder: Path, trouble: Trouble) -> int | None:
    """GPUs of the largest group of processes that worked on a run: `machine.json`, or `machine-8.json` of eight."""
    found: list[int] = []
    for path in folder.glob("machine*.json"):
        content = record(path, trouble) or {}
        world = path.stem.removeprefix("machine").removeprefix("-") or "1"
        if world.isdigit() and content.get("device") in ("cpu", "cuda"):
            found.append(int(world) if content["device"] == "cuda" else 0)
    return max(found, default=None)


def _ended(path: Path, trouble: Trouble) -> Ended | None:
    content = record(path, trouble)
    if content is None:
        return None
    code = content.get("code")
    if not isinstance(code, int) or isinstance(code, bool):
        trouble.say(path, "says no exit code")
        return None
    try:
        return Ended(path.stat().st_mtime, code, masked(str(content.get("reason", "")))[:2000])
    except OSError:
        return None


def _predicted(path: Path, trouble: Trouble) -> dict[str, dict[str, Any]]:
    content = record(path, trouble)
    if content is None:
        return {}
    listed = content.get("stages")
    if not isinstance(listed, list):
        trouble.say(path, "holds no list of stages")
        return {}
    return {str(one["name"]): one for one in listed if isinstance(one, dict) and "name" in one}
