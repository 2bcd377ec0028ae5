"""Run folders: where a stage keeps what must survive a crash and must not be an artefact.

<run root>/<stage>/<identity>/ holds checkpoints, live logs and the machine's choices. It is no DVC out: DVC deletes outs
before a stage runs, and `persist: true` leaks between experiments. The identity is that of the recipe, so the same command
continues and a changed recipe starts fresh (design law 3).
"""

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from pydantic import BaseModel
from ruamel.yaml import YAML

from stages.lib.core import files
from stages.lib.core.outcome import Refusal

CODE = (".py", ".c")
REMOVING = 0.3
"""Seconds after which whoever holds a lease is a run."""


def declared(stage: str, dvc_yaml: Path = Path("dvc.yaml")) -> tuple[list[str], list[str]]:
    """(code files, package names under `versions`) that dvc.yaml declares for a stage; both are literal lists there."""
    spec = YAML(typ="safe").load(dvc_yaml)["stages"][stage]
    spec = spec.get("do", spec)
    packages = [name.removeprefix("versions.") for name in spec.get("params", []) if str(name).startswith("versions.")]
    return sorted(dep for dep in spec["deps"] if dep.endswith(CODE)), sorted(packages)


def identity(stage: str, params: Sequence[BaseModel], inputs: Sequence[Path]) -> tuple[str, dict[str, Any]]:
    """(hex id, its parts): declared code, package versions, validated params and the content of the small inputs.

    Never time, host, path of the checkout, dvc.lock or the `system` block: those change nothing about the recipe.
    """
    code, packages = declared(stage)
    versions = YAML(typ="safe").load(Path("params.yaml"))["versions"]
    parts: dict[str, Any] = {
        "stage": stage,
        "code": {name: files.sha256(Path(name)) for name in code},
        "versions": {name: versions[name] for name in packages},
        "params": [block.model_dump(mode="json") for block in params],
        "inputs": {path.as_posix(): files.sha256(path) for path in inputs},
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16], parts


@dataclass(frozen=True)
class Run:
    """An open run folder, held by this process alone."""

    folder: Path
    identity: str

    def recall(self, name: str, chosen: dict[str, Any]) -> dict[str, Any]:
        """What an earlier process of this run recorded under `name`; else `chosen`, which is recorded now.

        For choices of the machine that move bits (thread count, device): measured or chosen once per run, kept on resume.
        Raises Refusal for a record that cannot be read: to choose again would be to go on with other bits, unsaid.
        """
        path = self.folder / f"{name}.json"
        if path.exists():
            try:
                recorded: dict[str, Any] = json.loads(path.read_text())
            except ValueError as error:
                raise Refusal(
                    f"{path} says what this run chose at its start, and cannot be read ({error}). Put it right, or remove it to "
                    "choose again: the run then goes on with other last bits."
                ) from None
            return recorded
        with files.replace(path) as temporary:
            temporary.write_text(json.dumps(chosen, indent=2) + "\n")
        return chosen


@contextlib.contextmanager
def open_run(
    stage: str, item: str | None, params: Sequence[BaseModel], inputs: Sequence[Path], holds: bool = True
) -> Iterator[Run]:
    """Hold <run root>/<stage>[@item]/<identity>/ under a lease the kernel drops with the process.

    Raises Refusal when another process holds it: two writers would tear each other's checkpoints. holds: False for a process that
    works along with the one that does, and writes nothing there.
    """
    name, parts = identity(stage, params, inputs)
    folder = files.root() / (f"{stage}@{item}" if item else stage) / name
    if not holds:
        yield Run(folder, name)
        return
    with _lease(folder, stage) as lease:
        lease.truncate(0)
        lease.write(f"process {os.getpid()} on {os.uname().nodename}")
        lease.flush()
        with files.replace(folder / "identity.json") as temporary:
            temporary.write_text(json.dumps(parts, indent=1, sort_keys=True) + "\n")
        yield Run(folder, name)


@contextlib.contextmanager
def _lease(folder: Path, stage: str) -> Iterator[TextIO]:
    """The folder's lease, which the kernel takes back when this process ends. Raises Refusal where another keeps it.

    Whoever removes old folders (stages/lib/core/run_folders.py) holds a lease for the moment in which the folder gets another name:
    that is waited for, and a lease whose folder has gone is none.
    """
    patience = time.monotonic() + REMOVING
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lease = (folder / "lease").open("a+")
        except FileNotFoundError:  # gone since the line before
            continue
        with lease:
            try:
                fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < patience:
                    time.sleep(0.01)
                    continue
                lease.seek(0)
                raise Refusal(
                    f"{stage} with this very recipe is already running ({lease.read().strip() or 'holder unknown'}) in {folder}. "
                    "Wait for it, or stop it; the next start continues from its last checkpoint."
                ) from None
            if not is_at(lease, folder / "lease"):
                continue
            yield lease
            return


def is_at(opened: TextIO, path: Path) -> bool:
    """Whether the open file is the one of that name."""
    try:
        return os.path.samestat(os.fstat(opened.fileno()), path.stat())
    except FileNotFoundError:
        return False
