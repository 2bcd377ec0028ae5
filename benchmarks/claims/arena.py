"""Where claims run: a clone of this repository at one commit, with a DVC cache and run folders that all claims share.

What two recipes have in common is made once: DVC's run cache gives a teacher or an autoencoder back to whoever asks again.
"""

import os
import subprocess
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from benchmarks.claims.recipes import BASE, Variant
from stages.lib.core.outcome import Refusal

ROOT = Path(__file__).resolve().parents[2]
FAILED_LINES = 15


@dataclass(frozen=True)
class Arena:
    """A folder of a person's choosing: raw/ (tars), work/ (the clone), cache/, runs/, logs/."""

    folder: Path

    @property
    def work(self) -> Path:
        """The clone, whose params.yaml is written anew for every run."""
        return self.folder / "work"

    def prepare(self, sets: Collection[str]) -> None:
        """Clone this repository's HEAD, unless a clone is there already, and bring the images of these sets into shards.

        A claim begun at one commit is finished at it.
        """
        for name in ("raw", "cache", "runs", "logs"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        if not self.work.exists():
            self._say("git", "clone", "--quiet", str(ROOT), str(self.work), cwd=self.folder)
            for key, value in (("cache.dir", str(self.folder / "cache")), ("core.analytics", "false")):
                self._say("dvc", "config", "--local", key, value, cwd=self.work)
        gates = [name for name in sets if not (self.work / f"data/gates/shards-{name}.json").exists()]
        if gates:
            self._write({**BASE})
            self._say("dvc", "repro", *(f"validate-shards@{name}" for name in gates), cwd=self.work)

    def revision(self) -> dict[str, str]:
        """Commit of the clone, and git's hash of all that lies under stages/, which outlives a rebase."""
        commit, stages = self._say("git", "rev-parse", "HEAD", "HEAD:stages", cwd=self.work).split()
        return {"revision": commit, "stages": stages}

    def run(self, claim: str, variant: Variant, seed: int) -> None:
        """`dvc repro` of one recipe. Raises Refusal with the end of DVC's words where it fails."""
        changes = {**BASE, **variant.changes, **dict.fromkeys(variant.seeds, seed)}
        self._write(changes)
        log = self.folder / "logs" / f"{claim}-{variant.name}-{seed}.log"
        with log.open("w") as file:
            done = subprocess.run(
                ["dvc", "repro", "--single-item", *stages(variant, changes)],
                cwd=self.work,
                env=self._environment(),
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        if done.returncode:
            end = "\n".join(log.read_text(errors="replace").splitlines()[-FAILED_LINES:])
            raise Refusal(f"{claim}, {variant.name}, seed {seed}: dvc repro failed; the whole of it is in {log}\n{end}")

    def _write(self, changes: dict[str, Any]) -> None:
        values = overridden(self._say("git", "show", "HEAD:params.yaml", cwd=self.work), changes)
        with (self.work / "params.yaml").open("w") as file:
            YAML().dump(values, file)

    def _say(self, *command: str, cwd: Path) -> str:
        """What a command prints. Raises Refusal where it fails; why, it has told the terminal."""
        done = subprocess.run(command, cwd=cwd, env=self._environment(), text=True, stdout=subprocess.PIPE)
        if done.returncode:
            raise Refusal(
                f"`{' '.join(command)}` failed in {cwd}; what it said stands above. Mend it and run this again"
            )
        return done.stdout

    def _environment(self) -> dict[str, str]:
        """The stages' own Python, and nothing of a DVC this one may run in."""
        kept = {key: value for key, value in os.environ.items() if key not in ("DVC_ROOT", "DVC_STAGE")}
        return {
            **kept,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "TUTELAGE_RUNS": str(self.folder / "runs"),
            "TUTELAGE_RAW": str(self.folder / "raw"),
        }


def stages(variant: Variant, changes: dict[str, Any]) -> list[str]:
    """What makes and measures a recipe's model, in order; the images lie ready, and are not scanned again for every run."""
    asked = changes["train.teacher"] == "teacher"
    made = [
        *(["teacher", "validate-model@teacher"] if asked or variant.teacher else []),
        *(["pretrain", "validate-model@mae"] if changes["train.init"] == "mae" else []),
        *["distill", "validate-model@student"],
        *(["finetune", "validate-model@finetuned"] if variant.model == "finetuned" else []),
    ]
    if variant.model.startswith("transfer-"):
        return [*made, variant.model.replace("-", "@", 1)]
    return [*made, f"evaluate@{variant.model}", *(["evaluate@teacher"] if variant.teacher else [])]


def overridden(text: str, changes: dict[str, Any]) -> Any:
    """A params.yaml with dotted keys set to other values."""
    values = YAML().load(text)
    for key, value in changes.items():
        *blocks, last = key.split(".")
        place = values
        for block in blocks:
            place = place[block]
        place[last] = value
    return values
