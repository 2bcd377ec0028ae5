"""How each stage stands in DVC's cache, for the live page: `python -m stages.lib.reporting.live_cache` prints it as JSON.

DVC itself reads dvc.yaml, dvc.lock and params.yaml here, in a program of its own, and no lock of its is taken. `dvc status` takes
the repository's, and a `dvc repro` that wants it back between two stages waits three seconds and then gives up: somebody who
looks must never end a run. For the same reason nothing large is read: what stages made is compared by what dvc.lock says of it,
code and parameters by their content. A file in data/ that was changed by hand is `dvc status`'s to find.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.stage import Stage as DvcStage

State = Literal["fresh", "stale", "after", "never", "always"]
"""fresh: nothing to do. stale: something it depends on has changed. after: it comes after one that is not fresh, and may turn out
to have nothing to do. never: dvc.lock has no such stage. always: it runs every time."""
TRIES, PAUSE_SECONDS = 5, 0.3
"""While DVC is writing dvc.lock it cannot be read."""


@dataclass(frozen=True)
class Stage:
    """One stage of dvc.yaml, foreach resolved."""

    name: str
    state: State
    changed: tuple[str, ...]
    """What is not as dvc.lock has it: files, parameters, missing outs."""
    gpu_hours: float
    """`meta.gpu_hours`: a rough price of one run of presets/imagenet-deit-base.yaml on one H200."""
    outs: tuple[str, ...]


def stages(root: Path) -> list[Stage]:
    """Every stage that has a command, upstream first. Raises what DVC raises where its files do not fit together."""
    import networkx
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        graph = repo.index.graph  # an edge leads from a stage to what it depends on
        order = [stage for stage in networkx.topological_sort(graph.reverse()) if stage.cmd]
        made = {out.def_path: out for stage in order for out in stage.outs}
        hashes: dict[str, str | None] = {}
        found: dict[str, Stage] = {}
        for stage in order:
            behind = [name_of(up, root) for up in graph.successors(stage) if up.cmd]
            settled = all(found[name].state in ("fresh", "always") for name in behind)
            found[name_of(stage, root)] = _stage(name_of(stage, root), stage, made, hashes, settled)
        return list(found.values())


def name_of(stage: "DvcStage", root: Path) -> str:
    """How a stage is called from the root of its repository, wherever this process runs."""
    file = Path(stage.path).resolve().relative_to(root.resolve()).as_posix()
    return str(stage.name) if file == "dvc.yaml" else f"{file}:{stage.name}"


def _stage(
    name: str, stage: "DvcStage", made: "dict[str, Output]", hashes: dict[str, str | None], settled: bool
) -> Stage:
    known = bool(stage.outs) and all(out.hash_info for out in stage.outs)
    changed = tuple(_changed(stage, made, hashes)) if known else ()
    state: State = "always" if stage.always_changed else "never" if not known else "stale" if changed else "fresh"
    if state == "fresh" and not settled:
        state = "after"
    outs = tuple(str(out.def_path) for out in stage.outs)
    return Stage(name, state, changed, float((stage.meta or {}).get("gpu_hours", 0)), outs)


def _changed(stage: "DvcStage", made: "dict[str, Output]", hashes: dict[str, str | None]) -> Iterator[str]:
    """What is not as dvc.lock has it."""
    if stage.changed_stage():
        yield "the command, or which files and outs are declared"
    for dep in stage.deps:
        if hasattr(dep, "read_params"):
            for keys in dep.status().values():
                yield from sorted(keys) if isinstance(keys, dict) else [str(dep)]
        elif (recorded := made.get(dep.def_path)) is not None:
            if dep.hash_info != recorded.hash_info:
                yield str(dep.def_path)
        elif not _inside_outs(dep.def_path, made) and dep.hash_info.value != _md5(Path(dep.fs_path), dep, hashes):
            yield str(dep.def_path)
    yield from (f"{out.def_path} is not here" for out in stage.outs if not Path(out.fs_path).exists())


def _inside_outs(path: str, made: "dict[str, Output]") -> bool:
    """Whether a folder holds what stages made: its parts are compared as their outs."""
    return any(out.startswith(f"{path}/") for out in made)


def _md5(path: Path, dep: Any, hashes: dict[str, str | None]) -> str | None:
    """As DVC has it, of a small file (code) or a small folder (a marker in git); None where there is none."""
    if dep.def_path not in hashes:
        if path.is_file():
            hashes[dep.def_path] = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        else:
            hashes[dep.def_path] = str(dep.get_hash().value) if path.exists() else None
    return hashes[dep.def_path]


def answer(root: Path) -> dict[str, Any]:
    """{"stages": [...], "seconds"}, or {"error": a sentence} where DVC cannot tell."""
    began, error = time.monotonic(), ""
    for attempt in range(TRIES):
        try:
            return {"stages": [asdict(one) for one in stages(root)], "seconds": time.monotonic() - began}
        except Exception as fault:  # whatever DVC finds in files that a person or another process is writing
            error = " ".join(f"{type(fault).__name__}: {fault}".split())[:500]
            if attempt + 1 < TRIES:
                time.sleep(PAUSE_SECONDS)
    return {"error": error}


def main() -> None:
    """Print the answer on one line, at the lowest priority: what trains goes first."""
    os.nice(19)
    sys.stdout.write(json.dumps(answer(Path.cwd())) + "\n")


if __name__ == "__main__":
    main()
