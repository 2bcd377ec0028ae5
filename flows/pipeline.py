"""The pipeline as a flow: one task a stage of dvc.yaml, independent stages at once, on this host or over workers.

    flow        pipeline/nightly; python -m flows.pipeline [target ...] runs it here without a deployment
    on a host   `dvc --wait-for-lock repro -s <stage>` in the clone this file lies in, GPU stages on devices of their own
    across      each stage goes to a worker with a clone of its own, as a run of the flow `stage` (flows/stage.py)

DVC says what the graph is and what has to run; Prefect keeps no second description and no second cache.
"""

import contextlib
import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Protocol

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.futures import PrefectFuture, wait
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed
from prefect.tasks import Task
from pydantic import BaseModel, ConfigDict, Field

from flows import announce, child, execution, graph, service, telemetry, workspace
from flows.across import Across
from flows.execution import Demand, Workspace
from flows.freshness import Freshness
from flows.graph import Stage
from flows.result import AGAIN, Result
from flows.telemetry import Sender

Count = Annotated[int, Field(ge=0)]
Hours = Annotated[float, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]

FAREWELL_SECONDS = 10.0
"""How long a flow waits at its end for artifacts that are still on their way."""
RETRIES = (
    "Waits before another try, after a kill, a full disk, a lost worker; never after what a person must put right."
)


class Options(BaseModel):
    """How stages are carried out; never what comes out of them. A stage is named in full (`transfer@flowers`) or by its kind."""

    model_config = ConfigDict(extra="forbid")

    gpus: Annotated[
        dict[str, Count], Field(description="GPUs a stage may use, instead of meta.gpu; 0: all of a host.")
    ] = {}
    limit_hours: Annotated[
        dict[str, Hours], Field(description="Stop a stage after so long, without another try; 0: never.")
    ] = {}
    retry_seconds: Annotated[list[Seconds], Field(description=RETRIES)] = [10, 60, 300]
    notify: Annotated[
        str, Field(description="Who is told of failures: a notification block, as slack-webhook/team.")
    ] = ""

    def demand(self, stage: Stage) -> Demand:
        """What a stage is given."""
        gpus = _of(self.gpus, stage, stage.gpus)
        return Demand(int(gpus), _of(self.limit_hours, stage, 0.0) * 3600)


DEFAULTS = Options()


class CarryOut(Protocol):
    """Brings one stage up to date, somewhere; blocks until it is, or can't be."""

    def __call__(self, stage: Stage) -> Result: ...


def _run_name() -> str:
    """What the page lists: what is brought up to date."""
    return ", ".join(flow_run.parameters.get("targets") or ["everything"])


@flow(name="pipeline", flow_run_name=_run_name)
def pipeline(targets: list[str] = [], across: bool = False, options: Options = DEFAULTS) -> State[None]:  # noqa: B006
    """Bring the pipeline up to date.

    targets: stages, or kinds of stages (`transfer`), with all they need; none: every stage. across: run stages on the workers of
    the pools `tutelage-cpu` and `tutelage-gpu`, each in its own clone, instead of on this host.
    """
    return run(workspace.ROOT, targets, across, options)


def run(root: Path, targets: Sequence[str], across: bool, options: Options) -> State[None]:
    """The whole of a flow over one workspace: submit, wait, say how it ended. Stops every stage when the flow is stopped."""
    if options.notify:
        announce.check(options.notify)  # a wrong name should not show on the night something fails
    commit = workspace.clean_commit(root) if across else None
    with sending() as sender, stopping_all():
        return verdict(inside(root, targets, commit, options, sender))


def inside(
    root: Path, targets: Sequence[str], commit: str | None, options: Options, sender: Sender, label: str = ""
) -> "dict[str, State[None]]":
    """The pipeline over one workspace as a part of a flow: how each stage ended. May be called in a task; `stopping_all` may not.

    commit: that every worker works at; None: stages run on this host. label: goes before the names of the tasks.
    """
    carry_out = Across(root, commit, options.demand) if commit else Here(root, options, sender)
    futures = submit(root, targets, carry_out, options, sender, label)
    wait(list(futures.values()))
    states = {name: future.state for name, future in futures.items()}
    if isinstance(carry_out, Across):
        carry_out.bring([name for name, state in states.items() if state.is_completed()])
    return states


@contextlib.contextmanager
def sending() -> Iterator[Sender]:
    """A sender of progress and artifacts for the length of a flow."""
    sender = Sender()
    try:
        yield sender
    finally:
        sender.close(FAREWELL_SECONDS)


class Here:
    """Carries stages out in a workspace of this host."""

    def __init__(self, root: Path, options: Options, sender: Sender) -> None:
        variables = workspace.variables(workspace.ROOT)
        self.place = Workspace(root, Path(variables["TUTELAGE_RUNS"]), graph.has_remote(root), variables)
        self.fresh, self.options, self.sender = Freshness(root), options, sender

    def __call__(self, stage: Stage) -> Result:
        answer = self.fresh.ask(stage.name)
        if answer.unchanged:
            return Result("UpToDate", "nothing changed")
        watch = functools.partial(telemetry.progress, sender=self.sender)
        demand, log = self.options.demand(stage), get_run_logger().info
        return execution.run(stage, self.place, answer.recipe, demand, log, watch)


def submit(
    root: Path,
    targets: Sequence[str],
    carry_out: CarryOut,
    options: Options,
    sender: Sender,
    label: str = "",
) -> dict[str, PrefectFuture[Any]]:
    """One task for each stage, started when those it depends on are done. label: goes before the names of the tasks.

    Raises graph.UnknownTarget.
    """
    stages = graph.read(root, targets)
    futures: dict[str, PrefectFuture[Any]] = {}
    for stage in stages:
        body = _task(stage, root, carry_out, options, sender)
        before = [futures[name] for name in stage.upstream]
        named = body.with_options(name=stage.kind, task_run_name=f"{label}{stage.name}")
        futures[stage.name] = named.submit(wait_for=before)
    return futures


def _task(stage: Stage, root: Path, carry_out: CarryOut, options: Options, sender: Sender) -> "Task[..., Any]":
    @task(
        retries=len(options.retry_seconds),
        retry_delay_seconds=list(options.retry_seconds) or None,
        retry_condition_fn=_worth_another_try,
        cache_policy=NO_CACHE,
        persist_result=False,
        tags=["gpu"] if stage.gpus else [],
    )
    def body() -> State[None]:
        result = carry_out(stage)
        log = get_run_logger()
        (log.info if result.done else log.error)("%s: %s (%s)", stage.name, result.kind, result.reason)
        if result.kind in ("Ran", "Cached", "Refused"):
            telemetry.show(sender, root, stage.name, stage.outs, result.run_folder)
        if result.kind in ("Refused", "Failed"):
            gate = stage.kind.startswith("validate-")
            announce.failed(sender, stage.name, result.reason, gate and result.kind == "Refused", options.notify)
        return result.state()

    return body


def _worth_another_try(_task: object, _run: TaskRun, state: State[object]) -> bool:
    return state.name in AGAIN and not child.stopping()


@contextlib.contextmanager
def stopping_all() -> Iterator[None]:
    """For the main thread: every command of this process is stopped when the flow is, or when its worker dies."""
    service.end_with_worker()
    try:
        yield
    except BaseException:
        child.stop_all("the flow was stopped")
        raise


def verdict(states: "Mapping[str, State[None]]") -> State[None]:
    """How the flow ended: what failed, and why, in one message."""
    bad = {name: state for name, state in states.items() if not state.is_completed()}
    if not bad:
        ran = [name for name, state in states.items() if state.name == "Ran"]
        return Completed(message=f"{len(states)} stages are up to date; ran: {', '.join(ran) or 'nothing'}")
    stopped = [state for state in bad.values() if state.is_cancelled()]
    if stopped:
        return Cancelled(message=stopped[0].message)
    causes = {name: state for name, state in bad.items() if state.is_final()}
    lines = [f"{name}: {state.name}: {state.message}" for name, state in causes.items()]
    waiting = [name for name in bad if name not in causes]
    lines += [f"not started: {', '.join(waiting)}"] if waiting else []
    return Failed(message="\n".join(lines))


def _of(values: Mapping[str, float], stage: Stage, otherwise: float) -> float:
    """What `values` says of a stage by its name, else by its kind."""
    return values.get(stage.name, values.get(stage.kind, otherwise))


if __name__ == "__main__":
    pipeline(targets=sys.argv[1:])
