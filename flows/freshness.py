"""Asks DVC whether a stage has anything to do, and under which key its recipe goes. DVC stays the only cache: nothing is kept here.

`dvc repro -s` would answer too, in a process of its own that takes a second. A flow over thirty unchanged stages asks in its own
process instead.
"""

import hashlib
import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows import graph

if TYPE_CHECKING:
    from dvc.repo import Repo
    from dvc.stage import Stage as DvcStage

FILES = ("dvc.yaml", "dvc.lock", "params.yaml")


@dataclass(frozen=True)
class Answer:
    """What DVC says of a stage whose upstream stages are done."""

    unchanged: bool
    """The recipe is that of dvc.lock, and the outs are there (or need not be)."""
    recipe: str
    """Hex digest of the command, the parameters and the content of every dependency: two workspaces that are about to run the same
    thing have the same."""


class Freshness:
    """Answers about one workspace; any thread may ask. Reads dvc.yaml, dvc.lock and params.yaml again when one has changed."""

    def __init__(self, root: Path, without_data: bool = False) -> None:
        """without_data: the outs lie on other machines; dvc.lock alone tells what they are."""
        self.root, self.without_data = root, without_data
        self.asking = threading.Lock()
        self.read: tuple[bytes, ...] | None = None
        self.repo: Repo | None = None

    def ask(self, name: str) -> Answer:
        """About the stage of that name. Its upstream stages must be done."""
        with self.asking:
            stages = self._stages()
            stage = stages[name]
            made = {out.def_path: out for up in self._upstream(stage) for out in up.outs}
            return Answer(self._unchanged(stage, made), _recipe(stage, made))

    def close(self) -> None:
        """Give DVC's handles back."""
        with self.asking:
            if self.repo is not None:
                self.repo.close()
                self.repo = None

    def _stages(self) -> "dict[str, DvcStage]":
        from dvc.repo import Repo

        if self.repo is None or self._content() != self.read:
            if self.repo is not None:
                self.repo.close()
            self.repo = Repo(str(self.root), _wait_for_lock=True)
            with self.repo.lock:  # or dvc.lock is read while another process writes it
                self.read = self._content()
                self.named = {graph.name_of(stage, self.root): stage for stage in self.repo.index.graph if stage.cmd}
        return self.named

    def _content(self) -> tuple[bytes, ...]:
        return tuple(path.read_bytes() if (path := self.root / name).exists() else b"" for name in FILES)

    def _upstream(self, stage: "DvcStage") -> "list[DvcStage]":
        assert self.repo is not None
        return list(self.repo.index.graph.successors(stage))

    def _unchanged(self, stage: "DvcStage", made: dict[str, Any]) -> bool:
        if stage.always_changed or stage.changed_stage() or not all(out.hash_info for out in stage.outs):
            return False
        if not self.without_data:
            return not any(one.status() for one in (*stage.deps, *stage.outs))
        return all(str(dep.hash_info.value) == made_hash(dep, made) or not dep.status() for dep in stage.deps)


def made_hash(dep: Any, made: dict[str, Any]) -> str | None:
    """The hash of a dependency as dvc.lock's other entries have it: of another stage's out, or of a folder of such outs."""
    if dep.def_path in made:
        return str(made[dep.def_path].hash_info.value)
    inside = {path: out for path, out in made.items() if path.startswith(f"{dep.def_path}/")}
    if not inside or any(out.hash_info is None or out.hash_info.isdir for out in inside.values()):
        return None
    from dvc_data.hashfile.tree import Tree

    tree = Tree()
    for path, out in inside.items():
        tree.add(tuple(path.removeprefix(f"{dep.def_path}/").split("/")), None, out.hash_info)
    tree.digest()
    return str(tree.hash_info.value)


def _recipe(stage: "DvcStage", made: dict[str, Any]) -> str:
    """By what dvc.lock says of other stages' outs, not by what lies in the workspace: they may lie on other machines."""
    parts: dict[str, Any] = {"cmd": stage.cmd, "outs": sorted(out.def_path for out in stage.outs), "deps": {}}
    for dep in stage.deps:
        if hasattr(dep, "read_params"):  # values of params.yaml
            parts["deps"][dep.def_path] = dep.read_params()
        else:
            parts["deps"][dep.def_path] = made_hash(dep, made) or str(dep.get_hash().value if dep.exists else None)
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]
