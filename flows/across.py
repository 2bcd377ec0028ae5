"""Carries stages out on workers, each with a clone of its own: what a stage needs goes along, its entry of dvc.lock comes back.

One host has no files of another. The coordinator sends the commit, params.yaml and the entries of the stages before; the worker
pulls the outs they name from DVC's remote, runs the stage, pushes what it made, and leaves the new entry as an artifact named
after the recipe. The coordinator merges it into its dvc.lock. A coordinator that was killed in between finds the artifact again,
so no stage runs twice.
"""

import dataclasses
import json
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.sorting import ArtifactSort
from prefect.deployments import run_deployment
from prefect.runtime import flow_run, task_run
from prefect.states import Cancelling
from ruamel.yaml import YAML

from flows import child, graph, recipes, workspace
from flows.child import Child
from flows.execution import DVC, Demand
from flows.freshness import Freshness
from flows.graph import Stage
from flows.order import Order
from flows.result import Result

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

POLL_SECONDS = 0.5
UNSTARTED_SECONDS = 30.0
BRING_BYTES = 10_000_000
FENCED = re.compile(r"```json\n(.*)\n```", re.DOTALL)


class Across:
    """Carries stages out on the workers of the pools `tutelage-cpu` and `tutelage-gpu`."""

    def __init__(self, root: Path, commit: str, demand: Callable[[Stage], Demand]) -> None:
        """root: the coordinator's workspace, whose dvc.lock is kept. Raises workspace.WorkspaceError without a remote."""
        if not graph.has_remote(root):
            raise workspace.WorkspaceError(
                f"{root} has no DVC remote, through which workers exchange what they make. `dvc remote add --default team "
                "s3://bucket/prefix`, commit .dvc/config, and start again."
            )
        self.root, self.commit, self.demand = root, commit, demand
        self.params = (root / "params.yaml").read_text(encoding="utf-8")
        self.fresh = Freshness(root, without_data=True)
        self.turns = Path(workspace.variables(workspace.ROOT)["TUTELAGE_RUNS"]) / ".recipes-across"

    def __call__(self, stage: Stage) -> Result:
        """Have it done, and its entry in dvc.lock."""
        answer = self.fresh.ask(stage.name)
        if answer.unchanged:
            return Result("UpToDate", "nothing changed")
        log = get_run_logger().info
        try:
            with recipes.turn(
                self.turns, answer.recipe, stage.name, lambda who: log(f"waiting: {who} is being made"), child.stopping
            ):
                return self._dispatch(stage, answer.recipe)
        except recipes.Cancelled as stopped:
            return Result("Stopped", str(stopped))

    def _dispatch(self, stage: Stage, recipe: str) -> Result:
        if not stage.always and (entry := received(recipe)):
            workspace.merge(self.root, {stage.name: entry})
            return Result("Cached", "a worker had made it for an earlier run")
        pool = "gpu" if stage.gpus else "cpu"
        run = run_deployment(
            f"stage/{pool}",
            parameters={"order": self._order(stage, recipe).model_dump(mode="json")},
            flow_run_name=stage.name,
            timeout=0,
            tags=[f"recipe:{recipe}"],
            idempotency_key=f"{task_run.id}-{task_run.run_count}",
        )
        assert not hasattr(run, "__await__")
        log = get_run_logger().info
        log(f"run {run.name} ({run.id}) on pool tutelage-{pool}")
        state = follow(run.id, pool, log)
        result = Result.of(state)
        if not result.done:
            return result
        entry = received(recipe)
        if entry is None:
            return Result(
                "Failed", f"the worker finished, but left no entry of dvc.lock (artifact {artifact_key(recipe)})"
            )
        workspace.merge(self.root, {stage.name: entry})
        return result

    def _order(self, stage: Stage, recipe: str) -> Order:
        demand, entries = self.demand(stage), workspace.entries(self.root)
        # With `repro -s` DVC asks of stages before only what they made; `check` asks what `scan` was run on.
        before = [name for name in entries if name in stage.upstream or name.startswith("scan@")]
        slim = {
            name: {key: entries[name][key] for key in ("cmd", "params", "outs") if key in entries[name]}
            for name in before
        }
        own = {stage.name: entries[stage.name]} if stage.name in entries else {}
        return Order(
            stage=self._to_pull(stage),
            commit=self.commit,
            params=self.params,
            lock={**slim, **own},
            recipe=recipe,
            gpus=demand.gpus,
            limit_seconds=demand.limit_seconds,
            coordinator=UUID(str(flow_run.id)),
        )

    def bring(self, names: Sequence[str]) -> None:
        """Pull what stages made if it is small, so that metrics and the page are at hand here, or if an older one lies here.

        What is large stays in the remote until somebody says `dvc pull`. Best effort: the stages are done, whatever comes of it.
        """
        made = [out for name, entry in workspace.entries(self.root).items() if name in names for out in entry["outs"]]
        paths = [one["path"] for one in made if one.get("size", 0) <= BRING_BYTES or (self.root / one["path"]).exists()]
        log = get_run_logger()
        with tempfile.TemporaryDirectory(prefix="tutelage-") as tell:
            ending = Child(
                [*DVC, "pull", *paths], self.root, Path(tell), lambda line: log.info("dvc pull: %s", line)
            ).run()
        if ending.code:
            log.warning("not everything could be brought here: %s. `dvc pull` tries again.", ending.reason)

    def _to_pull(self, stage: Stage) -> Stage:
        """Published shards are read from where they are published, through a cache of bounded size."""
        published = (YAML(typ="safe").load(self.params).get("shard") or {}).get("published_uri")
        inputs = [path for path in stage.inputs if not (published and path.startswith("data/shards/"))]
        return dataclasses.replace(stage, inputs=tuple(inputs))


def follow(run_id: UUID, pool: str, log: Callable[[str], None]) -> "State[Any]":
    """The final state of a stage's run, however long the server is away. Cancels the run when this flow is stopped."""
    started, told, cancelled = time.monotonic(), False, False
    with get_client(sync_client=True) as client:
        while True:
            try:
                if child.stopping() and not cancelled:
                    client.set_flow_run_state(run_id, Cancelling(message="the pipeline was stopped"))
                    cancelled = True
                state = client.read_flow_run(run_id).state
                if state and state.is_final():
                    return state
                if not told and state and state.is_scheduled() and time.monotonic() - started > UNSTARTED_SECONDS:
                    log(
                        f"no worker of the pool tutelage-{pool} has taken it yet; `make worker POOL=tutelage-{pool}` starts one"
                    )
                    told = True
            except (httpx.HTTPError, OSError) as error:
                log(f"the server does not answer ({type(error).__name__}); asking again")
            time.sleep(POLL_SECONDS)


def artifact_key(recipe: str) -> str:
    """The artifact that holds the entry of dvc.lock a recipe led to."""
    return f"recipe-{recipe}"


def received(recipe: str) -> dict[str, Any] | None:
    """The entry of dvc.lock that a worker left for the recipe, if one did."""
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[artifact_key(recipe)])),
            sort=ArtifactSort.CREATED_DESC,
            limit=1,
        )
    matched = FENCED.search(str(found[0].data)) if found else None
    return json.loads(matched[1]) if matched else None
