"""What flows/drill.py breaks on a ground (flows/drill_ground.py), what should happen, and how that is seen.

Each fault strikes a stage that trains on the user's devices, through the DVC and the leash of real runs. "The same" means the
sha256 of the weights of a run that nobody disturbed.
"""

import json
import os
import shutil
import signal
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass

from flows import drill_store, embedded, service, settings
from flows.drill_ground import SET, STAGE, Broken, Ground, Trial, wait_for

STRUCK = 20  # steps done when a fault strikes; a run has about 150
GONE_SECONDS = 60.0  # docs/operations.md: nothing is left running after that
LIMITED = (
    "import os, resource, sys; n = int(sys.argv[1]); resource.setrlimit(resource.RLIMIT_FSIZE, (n, n)); "
    "os.execv(sys.argv[2], sys.argv[2:])"
)
"""A process that can write no file beyond n bytes: to whoever writes it is as a full disk, and the disk is not touched."""


@dataclass(frozen=True)
class Found:
    """What happened."""

    happened: str
    problems: tuple[str, ...]
    """What should have happened and did not; none: the promise held."""
    seconds: float | None
    """From the fault until the work was further than it had been."""


@dataclass(frozen=True)
class Fault:
    """One row of the table."""

    name: str
    expected: str
    strike: Callable[[Ground], Found]
    short: bool
    """Part of the short form."""


def trainer_killed(ground: Ground) -> Found:
    """SIGKILL in the middle of an epoch."""
    ground.undisturbed()
    ground.fresh()
    trial = ground.repro().start()
    step = trial.reach(STRUCK)
    struck = _kill(trial.trainers()[0], signal.SIGKILL)
    ending = trial.ending()
    problems = [] if ending.retryable else [f"not called worth a retry: {ending.reason}"]
    return _goes_on(ground, step, struck, [*problems, *_no_model(ground)])


def rank_killed(ground: Ground) -> Found:
    """SIGKILL of one of two processes that train together."""
    ground.undisturbed(2)
    ground.fresh(2)
    trial = ground.repro().start()
    trial.reach(STRUCK)
    (victim,) = trial.trainers("RANK=1")
    struck, seen, step = _kill(victim, signal.SIGKILL), len(trial.said), trial.step()
    wait_for(lambda: trial.step(since=seen) > step or trial.over())
    recovered = time.monotonic() - struck
    ending = trial.ending()
    problems = [] if ending.code == 0 else [f"it ended with {ending.code}: {ending.reason}"]
    problems += _said(trial, "continuing after step")
    return _judged("the other stopped, both were started again by themselves", ground, problems, recovered, 2)


def stage_told_to_stop(ground: Ground) -> Found:
    """SIGTERM to DVC alone, as a shutdown or a scheduler sends it."""
    ground.undisturbed()
    ground.fresh()
    ground.system({"checkpoint_seconds": 1e6})  # only what it saves when told to
    trial = ground.repro().start()
    step = trial.reach(STRUCK)
    struck = _kill(trial.dvc(), signal.SIGTERM)
    ending = trial.ending()
    left = time.monotonic() - struck
    problems = [] if ending.retryable and ending.code == 128 + signal.SIGTERM else [f"it says: {ending.reason}"]
    problems += [] if left < GONE_SECONDS else [f"it took {left:.0f} s to leave"]
    return _goes_on(ground, step, struck, problems, f"it saved and left after {left:.1f} s")


def second_writer(ground: Ground) -> Found:
    """The same stage started beside itself, past DVC's own lock."""
    ground.undisturbed()
    ground.fresh()
    trial = ground.repro().start()
    trial.reach(STRUCK)
    began = time.monotonic()
    second = ground.trial([sys.executable, "-m", f"stages.{STAGE}", SET]).start()
    refused = second.ending()
    seconds = time.monotonic() - began
    problems = [] if refused.code == 2 and "already running" in refused.reason else [f"it says: {refused.reason}"]
    problems += [] if not trial.over() else ["the first had ended before the second was refused: nothing was shown"]
    first = trial.ending()
    problems += [] if first.code == 0 else [f"the first ended with {first.code}: {first.reason}"]
    return _judged("the second was refused, the first finished", ground, problems, seconds)


def disk_full(ground: Ground) -> Found:
    """No room for a checkpoint, by a limit on the size of what the process may write."""
    ground.undisturbed()
    ground.fresh()
    limit = [sys.executable, "-c", LIMITED, str(ground.largest_bytes // 2)]
    struck = time.monotonic()
    ending = ground.repro(before=limit).start().ending()
    problems = [] if ending.code and ending.retryable else [f"it says: {ending.reason}"]
    said = ending.reason.replace(f"{ground.folder}/", "")[:90]
    problems += [f"left behind: {path.name}" for path in (ground.runs / STAGE).glob("*/checkpoints/*")]
    return _goes_on(ground, 0, struck, [*problems, *_no_model(ground)], f'it said "{said}"', resumed=False)


def shard_cut(ground: Ground) -> Found:
    """The last third of a shard is gone."""
    ground.fresh()
    tar = sorted((ground.root / f"data/shards/{SET}").glob("*-train-*.tar"))[1]
    size, whole = tar.stat().st_size, {path.name: path.stat().st_mtime_ns for path in tar.parent.glob("*.tar")}
    tar.chmod(0o644)
    os.truncate(tar, size * 2 // 3)
    struck = time.monotonic()
    gate = ground.repro(f"validate-shards@{SET}").start().ending()
    problems = [] if gate.code == 2 and tar.name in gate.reason else [f"the gate says: {gate.reason}"]
    repaired = ground.trial([sys.executable, "-m", "stages.shard", "--repair", SET]).start().ending()
    problems += [] if repaired.code == 0 else [f"repairing says: {repaired.reason}"]
    again = ground.repro(f"validate-shards@{SET}", alone=False).start()
    problems += [] if again.ending().code == 0 else [f"afterwards the gate says: {again.ending().reason}"]
    seconds = time.monotonic() - struck
    touched = [path.name for path in tar.parent.glob("*.tar") if path.stat().st_mtime_ns != whole.get(path.name)]
    problems += [] if set(touched) <= {tar.name} else [f"also touched: {', '.join(touched)}"]
    problems += [] if tar.stat().st_size == size else [f"{tar.name} has {tar.stat().st_size} bytes instead of {size}"]
    return _found(f"the gate refused and named {tar.name}; --repair rebuilt it alone", problems, seconds)


def store_misbehaves(ground: Ground) -> Found:
    """Shards come from a bucket that answers 503 and cuts bodies."""
    ground.undisturbed()
    ground.fresh()
    shards, bucket = ground.root / f"data/shards/{SET}", ground.folder / "bucket/shards" / SET
    aside = ground.folder / "aside"
    shutil.copytree(shards, bucket)
    shards.rename(aside)
    ground.block("shard", {"published_uri": f"s3://{drill_store.BUCKET}"})
    try:
        with drill_store.serving(ground.folder / "bucket", refusals=3, cuts=3) as store:
            trial = ground.repro(variables=store.variables).start()
            ending = trial.ending()
        problems = [] if ending.code == 0 else [f"it ended with {ending.code}: {ending.reason}"]
        problems += (
            [] if (store.refused, store.cut) == (3, 3) else ["the bucket was not asked often enough to misbehave"]
        )
        later = max(0.0, trial.seconds - ground.seconds)
        return _judged(
            f"{store.refused} refusals and {store.cut} cut bodies were asked for again", ground, problems, later
        )
    finally:
        ground.block("shard", {"published_uri": None})
        aside.rename(shards)


def server_stopped(ground: Ground) -> Found:
    """Prefect's server goes away while a flow trains, and comes back."""
    ground.undisturbed()
    ground.fresh()
    home, port = ground.folder / "prefect", embedded.free_port()
    home.mkdir(exist_ok=True)
    environment = settings.server(port, home)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", settings.LOOPBACK, "--port", str(port)]
    server = service.Service("server", command, environment, home, home / "server.log")
    try:
        _serve(server, port)
        told = settings.client(settings.api_url(port), home, {})
        trial = ground.trial([sys.executable, "-m", "flows.pipeline", STAGE], told).start()
        step = trial.reach(STRUCK)
        server.stop(15)
        wait_for(lambda: trial.step() >= step + STRUCK or trial.over())
        problems = [] if not trial.over() else ["the flow ended while the server was away"]
        struck = time.monotonic()
        _serve(server, port)
        ending = trial.ending()
        seconds = time.monotonic() - struck
        state = _last_state(port)
        problems += (
            [] if (ending.code, state) == (0, "Completed") else [f"{state}, code {ending.code}: {ending.reason}"]
        )
        return _judged("training never paused; the server then said Completed", ground, problems, seconds)
    finally:
        server.stop(15)


FAULTS = (
    Fault("the trainer is killed (SIGKILL)", "the same command goes on, to the same weights", trainer_killed, True),
    Fault("one of two processes is killed", "all start again by themselves, to the same weights", rank_killed, False),
    Fault(
        "SIGTERM to dvc",
        "it saves and leaves; the same command goes on, to the same weights",
        stage_told_to_stop,
        False,
    ),
    Fault("a second writer", "refused in a sentence; the first is untouched", second_writer, False),
    Fault("the disk is full", "said, nothing torn; with room again to the same weights", disk_full, False),
    Fault("a shard is cut", "the gate names it; --repair rebuilds it and nothing else", shard_cut, True),
    Fault("S3 answers 503 and cuts bodies", "asked again, to the same weights", store_misbehaves, False),
    Fault("Prefect's server stops", "training goes on; afterwards the state is true", server_stopped, False),
)


def _kill(process: int, signum: signal.Signals) -> float:
    """When it was."""
    os.kill(process, signum)
    return time.monotonic()


def _goes_on(
    ground: Ground, step: int, struck: float, problems: list[str], before: str = "", resumed: bool = True
) -> Found:
    """Start the same command again and see it through. resumed: there must have been a checkpoint to go on from."""
    trial = ground.repro().start()
    wait_for(lambda: trial.step() > step or trial.over())
    recovered = time.monotonic() - struck
    ending = trial.ending()
    problems += [] if ending.code == 0 else [f"the next start ended with {ending.code}: {ending.reason}"]
    problems += _said(trial, "continuing after step") if resumed else []
    how = f"it went on after step {_resumed_at(trial)}" if resumed else "the next start finished"
    return _judged("; ".join(filter(None, [before, how])), ground, problems, recovered)


def _judged(happened: str, ground: Ground, problems: list[str], seconds: float, several: int = 0) -> Found:
    """With the weights compared."""
    found, expected = ground.weights(), ground.digests[several]
    same = "the same weights" if found == expected else "other weights"
    problems += [] if found == expected else [f"other weights than those of an undisturbed run: {found[:12]}"]
    return _found(f"{happened}: {same}", problems, seconds)


def _found(happened: str, problems: list[str], seconds: float) -> Found:
    return Found("; ".join(problems) if problems else happened, tuple(problems), seconds)


def _said(trial: Trial, words: str) -> list[str]:
    return [] if any(words in line for line in trial.said) else [f'nothing said "{words}"']


def _resumed_at(trial: Trial) -> str:
    found = [
        line.partition("continuing after step ")[2].split()[0]
        for line in trial.said
        if "continuing after step " in line
    ]
    return found[0] if found else "?"


def _no_model(ground: Ground) -> list[str]:
    """Nothing half done may lie where the next stage looks."""
    return ["there are weights though training had not ended"] if ground.weights() else []


def _serve(server: service.Service, port: int) -> None:
    """Start it and wait until it answers."""
    server.start()
    wait_for(lambda: embedded.answers(f"http://{settings.LOOPBACK}:{port}/api/health") or not server.runs)
    if not server.runs:
        raise Broken(f"Prefect's server did not start: {server.output.read_text(errors='replace')[-2000:]}")


def _last_state(port: int) -> str:
    """How the server says that its newest flow run ended."""
    query = json.dumps({"sort": "EXPECTED_START_TIME_DESC", "limit": 1}).encode()
    address = f"{settings.api_url(port)}/flow_runs/filter"
    request = urllib.request.Request(address, query, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        (run,) = json.load(answer)
    return str(run["state_name"])
