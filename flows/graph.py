"""The stages of a workspace as DVC knows them: what runs, after what, on how many GPUs. The flows have no graph of their own."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dvc.stage import Stage as DvcStage


class UnknownTarget(ValueError):
    """A target that dvc.yaml does not have."""


@dataclass(frozen=True)
class Stage:
    """One stage of dvc.yaml, foreach resolved."""

    name: str
    """As `dvc repro` takes it: `distill`, `scan@digits-0-6`."""
    upstream: tuple[str, ...]
    """Stages whose outs it depends on."""
    gpus: int
    """GPUs it can use (`meta: {gpu: n}`); 0: none."""
    outs: tuple[str, ...]
    """What it makes, relative to the workspace; metrics and plots among them."""
    inputs: tuple[str, ...]
    """Outs of other stages that it needs: those it depends on, and those of which `meta: {reads: [shards]}` says that they are
    read though only their index is a dependency."""
    always: bool
    """Whether it runs every time (`scan`)."""

    @property
    def kind(self) -> str:
        """The name without the item of a foreach: `scan` for `scan@digits-0-6`."""
        return self.name.partition("@")[0]


def read(root: Path, targets: Sequence[str] = ()) -> list[Stage]:
    """The stages that `targets` need (a name, or a kind such as `transfer` for all of it; none: every stage), upstream first.

    Raises UnknownTarget, and whatever DVC raises where dvc.yaml and params.yaml do not fit together.
    """
    import networkx
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        graph = repo.index.graph  # an edge leads from a stage to what it depends on
        order = [stage for stage in networkx.topological_sort(graph.reverse()) if stage.cmd]
        stages = {name_of(one, root): one for one in order}
        found = [
            _stage(name, one, [up for up in graph.successors(one) if up.cmd], root) for name, one in stages.items()
        ]
    return needed(found, targets)


def needed(stages: Sequence[Stage], targets: Sequence[str]) -> list[Stage]:
    """Those of `stages` that the targets are or come after; all where there are no targets. Raises UnknownTarget."""
    if not targets:
        return list(stages)
    known = {stage.name: stage for stage in stages}
    todo: list[str] = []
    for target in targets:
        hits = [stage.name for stage in stages if target in (stage.name, stage.kind)]
        if not hits:
            raise UnknownTarget(
                f"dvc.yaml has no stage {target!r}. It has: {', '.join(known)}; or a kind for all of its items: "
                f"{', '.join(dict.fromkeys(stage.kind for stage in stages))}."
            )
        todo += hits
    wanted: set[str] = set()
    while todo:
        name = todo.pop()
        if name not in wanted:
            wanted.add(name)
            todo += known[name].upstream
    return [stage for stage in stages if stage.name in wanted]


def name_of(stage: "DvcStage", root: Path) -> str:
    """How a stage is called from the root of its workspace, wherever this process runs."""
    file = Path(stage.path).resolve().relative_to(root.resolve()).as_posix()
    return str(stage.name) if file == "dvc.yaml" else f"{file}:{stage.name}"


def _stage(name: str, stage: "DvcStage", upstream: "list[DvcStage]", root: Path) -> Stage:
    meta = dict(stage.meta or {})
    deps = [dep.def_path for dep in stage.deps]
    made = [out.def_path for up in upstream for out in up.outs]
    reads = [f"data/{kind}/" for kind in meta.get("reads", [])]
    inputs = [path for path in made if any(_inside(path, dep) for dep in deps) or path.startswith(tuple(reads))]
    return Stage(
        name=name,
        upstream=tuple(sorted(name_of(up, root) for up in upstream)),
        gpus=int(meta.get("gpu", 0)),
        outs=tuple(out.def_path for out in stage.outs),
        inputs=tuple(sorted(set(inputs))),
        always=bool(stage.always_changed),
    )


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def has_remote(root: Path) -> bool:
    """Whether the workspace has a default remote, so that outs can be pulled and pushed."""
    from dvc.config import Config

    return bool(Config(str(root / ".dvc"))["core"].get("remote"))
