"""What Prefect costs around the pipeline: python -m benchmarks.flows [noop] [host] [fleet]

    noop    every stage up to date but `scan`, in this clone: the flow, its server running, against `dvc repro`, in turns.
            The clone is brought up to date first, which trains the embedded set where it is not.
    host    a chain of stages that copy a file: the flow on one host, against `dvc repro`, against the bare commands, in turns
    fleet   raw images to validated shards on a worker, through a server on PostgreSQL and an S3 bucket on loopback, both needed:
            how long a stage's task takes at the coordinator, less how long the stage's command ran

Without a word: noop and host. Seconds of a clock on the wall; medians over the rounds, and the fastest. Say how busy the machine
was when you quote them: the load stands in the first line.
"""

import argparse
import contextlib
import datetime
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from flows import settings

ROOT = Path(__file__).parents[1]
KINDS = ("noop", "host", "fleet")
LINK = "  s{number}:\n    cmd: cp {before} {after}\n    deps: [{before}]\n    outs: [{after}]\n"
CHAIN = ("validate-shards@digits-7-9",)
"""Seven stages after each other, of which none trains: check, scan, ingest, and the gates."""


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description="What Prefect costs around the pipeline.")
    parser.add_argument("what", nargs="*", choices=[*KINDS, []], default=["noop", "host"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--stages", type=int, default=10, help="links of the chain of `host`")
    chosen = parser.parse_args()
    say(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    os.environ |= {**settings.CLIENT, "PREFECT_LOGGING_LEVEL": "CRITICAL", "DVC_NO_ANALYTICS": "1"}
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for what in chosen.what:
        {"noop": noop, "host": host, "fleet": fleet}[what](chosen)


def noop(chosen: argparse.Namespace) -> None:
    """The whole pipeline with nothing to do."""
    with served():
        from flows import pipeline

        def flow() -> str:
            state = pipeline.pipeline(return_state=True)
            if not state.is_completed():
                raise RuntimeError(state.message)
            return str(state.message)

        flow()
        say(f"noop: {flow()}")
        compare({"flow": flow, "dvc repro": lambda: command(ROOT, "dvc", "repro")}, chosen.rounds)


def host(chosen: argparse.Namespace) -> None:
    """A chain of trivial stages; every round changes what the first one reads."""
    with tempfile.TemporaryDirectory(prefix="tutelage-") as name, served():
        root, number = Path(name), chosen.stages
        os.environ |= {"TUTELAGE_RUNS": f"{root}/runs", "TUTELAGE_DEVICE_LOCKS": f"{root}/locks"}
        lay_out(root, number)
        rounds = iter(range(10**6))

        def new() -> None:
            (root / "f0").write_text(str(next(rounds)))

        def bare() -> None:
            for link in range(number):
                command(root, "cp", f"f{link}", f"f{link + 1}.bare")

        seconds = compare(
            {
                "flow": lambda: over(root),
                "dvc repro": lambda: command(root, "dvc", "repro"),
                "bare commands": bare,
            },
            chosen.rounds,
            new,
        )
        say(
            f"host: {(seconds['flow'] - seconds['bare commands']) / number:.2f} s a stage more than the bare commands, "
        )
        say(f"      {(seconds['flow'] - seconds['dvc repro']) / number:.2f} s a stage more than dvc repro")


def lay_out(root: Path, number: int) -> None:
    """A DVC project: f0 -> f1 -> f2 ..."""
    command(root, "git", "init", "--quiet")
    command(root, "dvc", "init", "--quiet")
    links = [LINK.format(number=link, before=f"f{link}", after=f"f{link + 1}") for link in range(number)]
    (root / "dvc.yaml").write_text("stages:\n" + "".join(links))


def over(root: Path) -> None:
    """The pipeline flow over another project than ours."""
    from prefect import flow

    from flows import pipeline

    @flow(name="pipeline", validate_parameters=False)
    def whole() -> object:
        return pipeline.run(root, [], False, pipeline.Options(retry_seconds=[]))

    state = whole(return_state=True)
    if not state.is_completed():
        raise RuntimeError(state.message)


@contextlib.contextmanager
def served() -> Iterator[None]:
    """A server of our own with an empty database, already up."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness():
        yield


def fleet(chosen: argparse.Namespace) -> None:
    """A worker's stages as the coordinator sees them."""
    import pytest

    from tests import s3
    from tests.e2e import fleet, postgres

    programs = postgres.programs()
    if programs is None:
        sys.exit(postgres.MISSING)
    with (
        s3.serving() as bucket,
        postgres.serving(programs) as database,
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory(prefix="tutelage-") as name,
    ):
        folder = Path(name)
        (folder / "hosts").mkdir()
        with fleet.serving(folder / "hosts", folder / "home", database, s3.bucket(bucket, patch)) as one:
            overheads(one, chosen.rounds)


def overheads(one: "object", rounds: int) -> None:
    """Of the stages of CHAIN, in `rounds` runs with other data each."""
    from tests.e2e.fleet import QUICK, Fleet

    assert isinstance(one, Fleet)
    one.lay_out(QUICK)
    coordinator, worker = one.clone("coordinator"), one.clone("cpu")
    one.deploy(coordinator)
    one.worker(coordinator, "tutelage")
    one.worker(worker, "tutelage-cpu")
    more: dict[str, list[float]] = {}
    for number in range(rounds):
        one.change(coordinator, {"ingest.val_fraction": 0.21 + number / 100})
        run = one.server.start_run("pipeline/nightly", across=True, targets=list(CHAIN))
        state = one.ends(run, 900)
        if state != "Completed":
            sys.exit(one.said())
        tasks = one.server.post("/task_runs/filter", task_runs={"flow_run_id": {"any_": [run]}})
        runs = one.stages(run)
        for task in tasks:
            if task["state_name"] == "Ran" and task["name"] in runs:  # Prefect has a task for each run of a stage, too
                (stage,) = runs[task["name"]]
                took = (moment(task["end_time"]) - moment(task["start_time"])).total_seconds()
                more.setdefault(task["name"], []).append(took - commanded(one, stage["id"]))
    for name, seconds in more.items():
        say(f"fleet: {name:30} {statistics.median(seconds):5.1f} s beside its command, the fastest {min(seconds):.1f}")
    everything = [second for seconds in more.values() for second in seconds]
    say(f"fleet: all                            {statistics.median(everything):5.1f} s, load {os.getloadavg()[0]:.1f}")


def commanded(one: "object", run: str) -> float:
    """Seconds from the start of a stage's command to DVC's next word after it, by the log of its run."""
    from tests.e2e.fleet import Fleet

    assert isinstance(one, Fleet)
    logs = {"flow_run_id": {"any_": [run]}}
    lines = one.server.post("/logs/filter", logs=logs, sort="TIMESTAMP_ASC")
    began = next(moment(line["timestamp"]) for line in lines if line["message"].startswith("> "))
    ended = next(moment(line["timestamp"]) for line in lines if "lock file 'dvc.lock'" in line["message"])
    return (ended - began).total_seconds()


def moment(text: str) -> datetime.datetime:
    """A time as the server writes it."""
    return datetime.datetime.fromisoformat(text)


def compare(
    sides: dict[str, Callable[[], object]], rounds: int, before: Callable[[], None] = lambda: None
) -> dict[str, float]:
    """Time the sides in turns, to and fro; says and returns their medians, in seconds. before: untimed, before every slice."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides)[:: 1 if number % 2 == 0 else -1]:
            before()
            start = time.perf_counter()
            sides[name]()
            seconds[name].append(time.perf_counter() - start)
    for name, found in seconds.items():
        say(
            f"  {name:14} {statistics.median(found):6.2f} s, the fastest {min(found):.2f}, load {os.getloadavg()[0]:.1f}"
        )
    return {name: statistics.median(found) for name, found in seconds.items()}


def command(root: Path, *words: str) -> None:
    """Run to its end; raises with what it said where it fails."""
    done = subprocess.run(words, cwd=root, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stdout}{done.stderr}")


def say(line: str) -> None:
    """On stdout."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
