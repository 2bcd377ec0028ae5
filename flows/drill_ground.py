"""Where failure is rehearsed: a small copy of this clone in a folder of its own, on the disk of the run folders.

Used by flows/drill.py. The copy has the code of this clone, the embedded digits 7 to 9, one small autoencoder to train, a DVC cache
of its own, and the user's own `system` block: devices, loader threads and disk are those of real runs. Everything that is started
carries $TUTELAGE_TELL of a folder in here, so that nobody is overlooked; close() ends whoever is left and removes the folder.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from flows import child, devices, execution, leash
from flows.child import Child, Ending

log = logging.getLogger(__name__)
ROOT = Path(__file__).parents[1]
SET = "digits-7-9"
STAGE = "pretrain"
COPIED = (
    "stages",
    "flows",
    "presets",
    "dvc.yaml",
    ".dvcignore",
    "data/expectations",
    "data/models/scratch",
    "data/models/none",
)
"""Of data/models only the markers for "no encoder" and "no teacher"."""
MODEL = Path("data/models/mae/model.safetensors")
PATIENCE_SECONDS = 180.0
"""For anything that takes seconds on a quiet machine."""
STEP = re.compile(r"\bstep (\d+) of \d+")
RECIPE: dict[str, Any] = {
    "sources": {SET: {"layout": "folder", "path": SET, "embedded": SET}},
    "sets": {"main": SET, "transfer": [], "robust": [], "real": []},
    "ingest": {"val_fraction": 0.2, "max_bad": 0, "exif": "ignore"},
    "shard": {"images_per_shard": 128, "seed": 0, "store": "original", "published_uri": None},
    "pretrain": {
        "seed": 0,
        "epochs": 12,
        "batch_size": 32,
        "image_size": 16,
        "scale": [0.5, 1.0],
        "hflip": 0.0,
        "model": {"patch_size": 4, "width": 96, "depth": 4, "heads": 4},
        "decoder": {"width": 48, "depth": 2, "heads": 4},
        "mask_ratio": 0.75,
        "norm_pix": True,
        "precision": "fp32",
        "compile": False,
        "optimizer": {
            "name": "adamw",
            "lr": 1.5e-3,
            "lr_per": 256,
            "weight_decay": 0.05,
            "betas": [0.9, 0.95],
            "decay_tokens": "all",
        },
        "schedule": {"kind": "mae-step", "warmup_epochs": 1, "min_lr": 0.0},
    },
}
"""Blocks that take the place of the user's; the others are valid as they are, and no stage that reads them runs here."""
SYSTEM = {
    "checkpoint_seconds": 0.0,
    "keep_checkpoints": 2,
    "log_seconds": 0.0001,
    "log_steps": 1,
    "shard_cache_gb": 1.0,
}
"""Of the user's `system` only these are replaced: a checkpoint and a line every step. Ranks: see `several`."""


class Broken(Exception):
    """The ground itself could not be laid: a drill would say nothing."""


class Ground:
    """One copy, laid out by prepare()."""

    def __init__(self, folder: Path) -> None:
        """folder: made here, empty and nobody else's."""
        self.folder, self.root, self.runs = folder, folder / "clone", folder / "runs"
        self.count = 0
        self.digests: dict[int, str] = {}  # processes -> sha256 of the weights of a run nobody disturbed
        self.largest_bytes = 0  # of a checkpoint
        self.variables = {
            "TUTELAGE_RUNS": str(self.runs),
            "TUTELAGE_RAW": str(folder / "raw"),
            "DVC_SITE_CACHE_DIR": str(folder / "site"),  # else DVC leaves a folder a repository under /var/tmp
        }

    def prepare(self) -> None:
        """Copy, shard the digits, pass their gates. Raises Broken."""
        self._copy()
        for command in (["git", "init", "-q"], [*execution.DVC[:3], "init", "-q"]):
            environment = child.environment(self.variables, self.folder)
            done = subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True)
            if done.returncode:
                raise Broken(f"{' '.join(command)} failed: {done.stdout}{done.stderr}")
        (self.root / ".dvc/config").write_text((ROOT / ".dvc/config").read_text())
        self.finish(self.repro(f"validate-shards@{SET}", alone=False))
        shutil.copy(self.root / "dvc.lock", self.folder / "dvc.lock")

    def fresh(self, several: int = 0) -> None:
        """As after prepare(): nothing is trained, and no cache knows of it. several: processes; 0: as the user has it."""
        for path in (self.runs / STAGE, self.root / ".dvc/cache/runs", self.root / "data/models/mae"):
            shutil.rmtree(path, ignore_errors=True)
        shutil.copy(self.folder / "dvc.lock", self.root / "dvc.lock")
        changes = {**SYSTEM, "ranks": several or self.own["ranks"], "device": self.own["device"]}
        if several and not ((host := devices.of_host()).gpus and len(host.names) >= several):
            changes["device"] = "cpu"  # two processes cannot share a GPU
        self.system(changes)

    def system(self, changes: Mapping[str, Any]) -> None:
        """Change keys of the copy's `system` block."""
        self.block("system", changes)

    def block(self, name: str, changes: Mapping[str, Any]) -> None:
        """Change keys of a block of the copy's params.yaml."""
        yaml, path = YAML(), self.root / "params.yaml"
        values = yaml.load(path)
        values[name].update(changes)
        with path.open("w") as file:
            yaml.dump(values, file)

    def repro(
        self,
        target: str = STAGE,
        alone: bool = True,
        before: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
    ) -> "Trial":
        """`dvc repro <target>` as flows run it, not yet started. before: words in front of the command."""
        command = (*before, *execution.DVC, "repro", *(["--single-item"] if alone else []), target)
        return self.trial(command, variables)

    def trial(self, command: Sequence[str], variables: Mapping[str, str] | None = None) -> "Trial":
        """Any command in the copy."""
        self.count += 1
        return Trial(
            command, self.root, self.folder / "told" / str(self.count), {**self.variables, **(variables or {})}
        )

    def finish(self, trial: "Trial") -> Ending:
        """Run it to its end. Raises Broken where that is not a good one."""
        ending = trial.start().ending()
        if ending.code:
            raise Broken("\n".join([f"{' '.join(trial.command)}: {ending.reason}", *trial.said[-20:]]))
        return ending

    def undisturbed(self, several: int = 0) -> str:
        """sha256 of the weights of a run that nothing happened to; trained the first time it is asked for."""
        if several not in self.digests:
            self.fresh(several)
            trial = self.repro()
            self.finish(trial)
            saved = (self.runs / STAGE).glob("*/checkpoints/*.pt")
            self.largest_bytes = max([path.stat().st_size for path in saved], default=0)
            self.digests[several] = self.weights()
            self.seconds = trial.seconds
        return self.digests[several]

    def weights(self) -> str:
        """sha256 of the trained weights; empty: there are none."""
        path = self.root / MODEL
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""

    def left(self) -> list[int]:
        """Processes that anything here started and that still are there."""
        mark, found = f"{child.TELL}={self.folder}".encode(), []
        for process in leash.parents():
            with contextlib.suppress(OSError):
                if process != os.getpid() and mark in Path(f"/proc/{process}/environ").read_bytes():
                    found.append(process)
        return found

    def close(self) -> None:
        """End whoever is left and remove the folder."""
        leash.send(self.left(), signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def own(self) -> dict[str, Any]:
        """The user's system block."""
        return {"ranks": 0, **(YAML(typ="safe").load(ROOT / "params.yaml").get("system") or {})}

    def _copy(self) -> None:
        self.root.mkdir(parents=True)
        for name in COPIED:
            source, target = ROOT / name, self.root / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        yaml = YAML()
        values = yaml.load(ROOT / "params.yaml")
        values.update(RECIPE)
        values["probe"]["mask_percents"] = [50, 75, 90]  # of 16 patches; 95 % would leave none
        values["train"]["init"] = "scratch"  # the user's student need not fit the small autoencoder
        values["system"] = {**(values.get("system") or {}), **SYSTEM}
        with (self.root / "params.yaml").open("w") as file:
            yaml.dump(values, file)


class Trial:
    """A command on a leash, in a thread, with what it says."""

    def __init__(self, command: Sequence[str], root: Path, tell: Path, variables: Mapping[str, str]) -> None:
        self.command, self.tell, self.said = tuple(command), tell, list[str]()
        self.child = Child(command, root, tell, self.said.append, variables)
        self._found: Future[Ending] | None = None
        self.seconds = 0.0

    def start(self) -> "Trial":
        """Returns at once."""
        self._found = ThreadPoolExecutor(1).submit(self.child.run)
        return self

    def ending(self) -> Ending:
        """Wait for its end, and that of everything it started. Raises Broken where it hangs."""
        assert self._found is not None
        try:
            ending = self._found.result(PATIENCE_SECONDS)
        except TimeoutError:
            raise Broken(f"{' '.join(self.command)} did not end within {PATIENCE_SECONDS:.0f} s") from None
        self.seconds = ending.seconds
        return ending

    def over(self) -> bool:
        """Whether it has ended."""
        return self._found is not None and self._found.done()

    def step(self, since: int = 0) -> int:
        """The highest it spoke of, in its lines from number `since` on."""
        return max([int(found[1]) for line in self.said[since:] if (found := STEP.search(line))], default=0)

    def reach(self, step: int) -> int:
        """Wait until it has done this many steps; how many it has. Raises Broken where it ends before."""
        wait_for(lambda: self.step() >= step or self.over())
        if self.step() < step:
            raise Broken("\n".join([f"{' '.join(self.command)} ended before step {step}", *self.said[-20:]]))
        return self.step()

    def pids(self, *words: str, variable: str = "") -> list[int]:
        """Processes of it with all these words in their command line, and this NAME=value in their environment."""
        found = []
        for process in child.with_variable(child.TELL, str(self.tell)):
            with contextlib.suppress(OSError):
                line = Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace").split("\0")
                given = Path(f"/proc/{process}/environ").read_bytes().decode(errors="replace").split("\0")
                if all(any(word in part for part in line) for word in words) and (not variable or variable in given):
                    found.append(process)
        return found

    def dvc(self) -> int:
        """DVC's own process."""
        aside = self.pids("leash.py")
        (found,) = [process for process in self.pids("dvc", "repro") if process not in aside]
        return found

    def trainers(self, variable: str = "") -> list[int]:
        """The processes of the stage itself: neither DVC's nor the leash."""
        aside = {*self.pids("leash.py"), *self.pids("repro"), *self.pids("-c")}
        return [process for process in self.pids(f"stages.{STAGE}", variable=variable) if process not in aside]


def wait_for(true: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> None:
    """Until something holds. Raises Broken where it takes too long."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise Broken(f"what had to come did not come within {seconds:.0f} s")
        time.sleep(0.01)


@contextlib.contextmanager
def ground(home: Path) -> Iterator[Ground]:
    """A prepared ground under `home`; what drills that were killed left there is removed first. Raises Broken."""
    home.mkdir(parents=True, exist_ok=True)
    sweep(home)
    folder = Path(tempfile.mkdtemp(prefix="drill-", dir=home))
    with (folder / "lease").open("w") as lease:
        fcntl.flock(lease, fcntl.LOCK_EX)
        one = Ground(folder)
        try:
            one.prepare()
            yield one
        finally:
            child.stop_all("the drill is over")
            one.close()
            with contextlib.suppress(OSError):
                home.rmdir()  # if it is empty


def sweep(home: Path) -> None:
    """Remove grounds whose drill has gone; a live one holds its lease."""
    for folder in home.glob("drill-*"):
        with contextlib.suppress(OSError), (folder / "lease").open() as lease:
            fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
            log.info("removing %s, left by a drill that was killed", folder)
            Ground(folder).close()
