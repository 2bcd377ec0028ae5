"""The flow behind the experiment form: a grid of changes to params.yaml, each run in a workspace of its own and saved for DVC.

People start it on Prefect's page, or as a deployment. Nobody's working tree is touched: every combination gets a git worktree at
one commit. Its stages go through flows/pipeline.py like those of any other run, so they take the same slots, workers and cache.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture, as_completed
from prefect.runtime import flow_run
from pydantic import Field

from flows import child, comparison, pipeline, telemetry, workspace
from flows.comparison import Outcome
from flows.form import SEEDS, Combination, Vary, chosen, combinations
from flows.pipeline import DEFAULTS, Options

TARGETS = ("evaluate@student", "evaluate@finetuned")
Name = Annotated[str, Field(pattern=r"^([A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?)?$", max_length=60)]
AtOnce = Annotated[int, Field(ge=1)]
METRICS = re.compile(r"data/metrics/(?P<stem>[^/]+)\.json")


class SomeFailed(RuntimeError):
    """Experiments of a grid that failed, each with its reason; the others are saved."""


class StagesFailed(RuntimeError):
    """Stages of one experiment that did not end well, each with its reason."""


def run(folder: Path, one: Combination, job: "_Job") -> Mapping[str, str]:
    """The pipeline as every other run has it, with tasks named after the experiment; what became of each stage.

    Raises StagesFailed.
    """
    commit = job.commit if job.across else None
    states = pipeline.inside(folder, job.targets, commit, job.options, job.sender, f"{one.name}: ")
    verdict = pipeline.verdict(states)
    if not verdict.is_completed():
        raise StagesFailed(verdict.message)
    return {name: str(state.name) for name, state in states.items()}


def _run_name() -> str:
    """What Prefect shows: the experiment's name, else what it varies."""
    parameters = flow_run.parameters
    if parameters.get("name"):
        return str(parameters["name"])
    vary = parameters.get("vary") or {}
    fields = chosen(Vary.model_validate(vary) if isinstance(vary, dict) else vary)
    words = [f"{name} {', '.join(str(value) for value in values)}" for name, values in fields.items()]
    return "; ".join(words) or "as params.yaml"


@flow(name="experiment", flow_run_name=_run_name)
def experiment(
    vary: Vary = Vary(),  # noqa: B008
    overrides: list[str] = [],  # noqa: B006
    targets: list[str] = list(TARGETS),  # noqa: B006
    across: bool = False,
    at_once: AtOnce = 2,
    options: Options = DEFAULTS,
    name: Name = "",
    commit: str = "HEAD",
) -> list[str]:
    """Runs a grid of experiments without touching anybody's workspace; returns the names of the DVC experiments it saved.

    Args:
        vary: Lists of values; every combination is one experiment.
        overrides: Any other key of params.yaml for all of them, such as train.drop_path=0.1.
        targets: Stages to reach; what they need runs first, nothing else does.
        across: Spread stages over the workers of the pools; else they run on the machine of this flow.
        at_once: Experiments that run at the same time. What two of them share runs once.
        options: How stages are carried out; never what comes out of them.
        name: Begins the names of the experiments.
        commit: Branch, tag or sha whose code and params.yaml are used. Uncommitted changes never are.
    """
    logger = get_run_logger()
    sha = workspace.resolve(workspace.ROOT, commit)
    made = combinations(workspace.file_at(workspace.ROOT, sha, workspace.PARAMS), vary, overrides, name)
    _say_what_is_left_out(logger, commit)
    names = ", ".join(one.name for one in made)
    logger.info("%d experiment(s) at commit %s, %d at a time: %s", len(made), sha[:10], at_once, names)
    with pipeline.sending() as sender, pipeline.stopping_all():
        outcomes = _all(made, _Job(sha, tuple(targets), across, options, sender), at_once)
    _publish(outcomes, SEEDS in chosen(vary), name)
    return _saved(outcomes)


class _Job:
    """What the experiments of one run share. No dataclass: Prefect would give every task a copy, and the sender must be one."""

    def __init__(
        self, commit: str, targets: tuple[str, ...], across: bool, options: Options, sender: telemetry.Sender
    ) -> None:
        self.commit, self.targets, self.across = commit, targets, across
        self.options, self.sender = options, sender


def _all(made: Sequence[Combination], job: _Job, at_once: int) -> list[Outcome]:
    """Run every combination, so many at a time, each a task; one that fails does not stop the others.

    Prefect interrupts only this, the main thread; then pipeline.stopping_all() ends what runs, and Prefect waits for it.
    """
    waiting = list(made)
    futures: dict[str, PrefectFuture[Outcome]] = {}
    running: list[PrefectFuture[Outcome]] = []
    while waiting or running:
        while waiting and len(running) < at_once:
            one = waiting.pop(0)
            futures[one.name] = run_one.with_options(task_run_name=one.name).submit(one, job)
            running.append(futures[one.name])
        running.remove(next(as_completed(running)))
    return [_outcome(one, futures[one.name]) for one in made]


def _outcome(one: Combination, future: PrefectFuture[Outcome]) -> Outcome:
    """What a task came to, or why it failed."""
    result = future.result(raise_on_failure=False)
    if isinstance(result, Outcome):
        return result
    return Outcome(one.name, one.values, problem=f"{result}" or type(result).__name__)


@task(name="experiment", cache_policy=NO_CACHE)
def run_one(one: Combination, job: _Job) -> Outcome:
    """One experiment: a workspace, the pipeline in it, saved. Raises what the pipeline raises."""
    logger = get_run_logger()
    if child.stopping():
        raise InterruptedError("stopped before it began")
    with workspace.temporary(
        workspace.ROOT, job.commit, one.params_text, workspace.entries(workspace.ROOT), one.name
    ) as folder:
        ran = run(folder, one, job)
        metrics = _metrics(folder, ran)
        message = f"{one.name}: " + ", ".join(f"{key}={value}" for key, value in one.changes.items())
        saved = workspace.save_experiment(folder, one.name, message, set(ran))
    logger.info("Saved as %s: `dvc exp show` lists it, `dvc exp apply %s` brings it into a workspace.", saved, saved)
    return Outcome(one.name, one.values, metrics, saved)


def _metrics(folder: Path, stages: Mapping[str, str]) -> dict[str, float]:
    """Metrics that these stages wrote, by names such as student.heads.fused.top1."""
    entries = workspace.entries(folder)
    outs = [out["path"] for stage in stages for out in entries.get(stage, {}).get("outs", [])]
    files = {path: found["stem"] for path in outs if (found := METRICS.fullmatch(path))}
    flat: dict[str, float] = {}
    for path, stem in files.items():
        if (folder / path).exists():
            flat |= comparison.flatten(json.loads((folder / path).read_text()), stem)
    return flat


def _say_what_is_left_out(logger: Any, commit: str) -> None:
    """A person who edited files and did not commit them would take these experiments for theirs."""
    try:
        workspace.clean_commit(workspace.ROOT)
    except workspace.Dirty as dirty:
        logger.warning("These changes are in none of the experiments, which run %s:\n%s", commit, dirty)


def _publish(outcomes: Sequence[Outcome], seeds: bool, name: str) -> None:
    """Tables for Prefect's page. The experiments are saved: no table is worth failing for."""
    key = re.sub(r"[^a-z0-9]+", "-", f"experiment-{name}".lower()).strip("-")
    tables = [(key, comparison.each(outcomes), "One row per experiment.")]
    if seeds:
        words = "Mean and sample standard deviation (n - 1) over seeds."
        tables.append((f"{key}-over-seeds", comparison.over(outcomes, SEEDS), words))
    for table_key, rows, words in tables:
        try:
            create_table_artifact(rows, key=table_key, description=words)
        except Exception as error:
            get_run_logger().warning("The table %s could not be shown: %s", table_key, error)


def _saved(outcomes: Sequence[Outcome]) -> list[str]:
    """Names of the experiments. Raises SomeFailed where there is one too few."""
    failed = [outcome for outcome in outcomes if outcome.problem]
    if failed:
        reasons = "\n".join(f"  {outcome.name}: {outcome.problem}" for outcome in failed)
        raise SomeFailed(f"{len(failed)} of {len(outcomes)} experiment(s) failed, the others are saved:\n{reasons}")
    return [outcome.saved for outcome in outcomes if outcome.saved]
