"""A worker of the fleet: `python -m flows.worker --pool tutelage-gpu`, or `make worker POOL=tutelage-gpu`, in a clone on any
host.

It looks whether this host is fit, starts Prefect's worker for this clone, and stays: it starts it again when it ends, and when
it is told to stop (Ctrl-C, SIGTERM) nothing is left of it after a minute: the runs get SIGTERM, by which their stages save and
leave, and the server is told. Prefect's own worker, given SIGTERM, kills its runs at once and tells nobody, or, where SIGINT is
ignored as in a shell's background, waits for them for ever; and an engine whose worker was killed goes on alone.
"""

import argparse
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

from flows import service, settings, settle
from stages.lib.params.credentials import say

log = logging.getLogger(__name__)
ROOT = Path(__file__).parents[1]
RUNS_SECONDS = 45.0
"""For the runs to save and leave; the worker itself and orphans then get LEAVE_SECONDS each: 55 s altogether."""
LEAVE_SECONDS = 5.0
SETTLE_SECONDS = 20.0
SETTLE_EVERY_SECONDS = 300.0
"""How often a worker of coordinators looks for task runs whose flow run ended without them."""
LIMITS = {"tutelage": 8, "tutelage-cpu": 1, "tutelage-gpu": 1}
"""Runs at once, unless --limit says otherwise. A coordinator waits most of its time; a stage wants the machine."""


class Unfit(Exception):
    """This host can't serve: what is missing, and what to do."""


def check(root: Path, pool: str, api_url: str | None) -> None:
    """Raise Unfit unless `root` is a clone that is set up, and the server at `api_url` answers and has the pool."""
    for name, cure in (
        ("dvc.yaml", "run it in a clone of Tutelage"),
        (".git", "make a git clone, not a copy of the files"),
    ):
        if not (root / name).exists():
            raise Unfit(f"{root} is no clone of Tutelage: there is no {name}. Please {cure}.")
    if not (root / ".venv/bin/python").exists():
        raise Unfit(f"{root} has no .venv. `make setup` makes it.")
    if not api_url:
        raise Unfit(
            "PREFECT_API_URL is not set: which server should this worker work for? For example http://<host>:4200/api"
        )
    pools = _pools(api_url)
    if pool not in pools:
        raise Unfit(f"the server at {api_url} has no work pool {pool!r}, but {pools}. `make deploy` makes Tutelage's.")


def _pools(api_url: str) -> list[str]:
    """Names of the server's work pools; Unfit where none answers. Prefect reads the environment when it is imported."""
    from httpx import HTTPError
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    try:
        with (
            temporary_settings({PREFECT_API_URL: api_url, PREFECT_CLIENT_MAX_RETRIES: 0}),
            get_client(sync_client=True) as client,
        ):
            return sorted(pool.name for pool in client.read_work_pools())
    except (HTTPError, OSError, ValueError) as error:  # ValueError: something else answers there
        raise Unfit(
            f"no Prefect server answers at PREFECT_API_URL={api_url}: {error}. Does it run, is the port open?"
        ) from None


def worker(
    root: Path, pool: str, limit: int, environment: Mapping[str, str], output: Path, host: str = socket.gethostname()
) -> service.Service:
    """Prefect's process worker for one pool, its runs in the clone at `root`."""
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process"]
    command += ["--name", f"{host}-{pool}", "--limit", str(limit)]
    whole = {**environment, "TUTELAGE_CLONE": str(root)}
    return service.Service(f"worker of {pool}", command, whole, root, output, with_us=signal.SIGKILL)


class Keeper:
    """Keeps one worker alive, and knows its runs, so that none is left without a word when it goes."""

    def __init__(self, one: service.Service) -> None:
        self.one = one
        self.runs: set[str] = set()
        self._settling: subprocess.Popen[bytes] | None = None
        self._settle_due = time.monotonic() + SETTLE_EVERY_SECONDS

    @property
    def pid(self) -> int:
        """Of the worker, 0 before its start."""
        return self.one.process.pid if self.one.process is not None else 0

    def look(self) -> None:
        """To be called twice a second: start the worker, or start it again when what it left has been cleared away."""
        if self.one.runs:
            self._remember()
        elif self.pid or service.children(os.getpid()):
            self._clear("its worker ended unexpectedly")
        self.one.look()
        if settings.POOLS[0] in self.one.name.split():
            self._settle()
        service.reap(spare=[self.pid])

    def stop(self, runs_seconds: float = RUNS_SECONDS, leave_seconds: float = LEAVE_SECONDS) -> None:
        """Stop the engines of the runs, then the worker, which tells how they ended, then orphans: killed after the seconds."""
        self._remember()
        if self.one.runs and (killed := service.stop_children(self.pid, runs_seconds)):
            log.warning(
                "runs that did not leave within %.0f s were killed: process %s",
                runs_seconds,
                ", ".join(map(str, killed)),
            )
        self.one.stop(leave_seconds)
        self._clear("its worker was stopped", leave_seconds)

    def _remember(self) -> None:
        """Which runs the worker's children are at work for."""
        for pid in service.children(self.pid):
            if run := settle.run_of_process(pid):
                self.runs.add(run)

    def _settle(self) -> None:
        """Every few minutes, beside us."""
        if time.monotonic() < self._settle_due:
            return
        self._settle_due = time.monotonic() + SETTLE_EVERY_SECONDS
        if self._settling is None or self._settling.poll() is not None:
            command = [sys.executable, "-m", "flows.settle"]
            self._settling = subprocess.Popen(command, env=dict(self.one.environment), cwd=self.one.folder)

    def _clear(self, why: str, seconds: float = LEAVE_SECONDS) -> None:
        """End the orphans and tell the server what became of the runs, if it listens."""
        service.stop_children(os.getpid(), seconds, spare=[self.pid])
        command = [sys.executable, "-m", "flows.settle", "--why", why, "--runs", *sorted(self.runs)]
        self.runs.clear()
        if len(command) == 6:
            return
        try:
            environment, folder = dict(self.one.environment), self.one.folder
            subprocess.run(command, env=environment, cwd=folder, timeout=SETTLE_SECONDS, check=False)
        except (subprocess.SubprocessError, OSError) as error:
            log.warning("the server was not told what became of runs: %s", error)


def supervise(keeper: Keeper) -> None:
    """Keep the worker alive until SIGTERM or SIGINT, then stop it; to be called in the main thread."""
    asked: list[int] = []

    def remember(signum: int, _frame: FrameType | None) -> None:
        asked.append(signum)

    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, remember)
    service.adopt_orphans()
    while not asked:
        keeper.look()
        time.sleep(0.5)
    log.info("%s: stopping the worker and its runs; the stages save first", signal.Signals(asked[0]).name)
    keeper.stop()


def main() -> None:
    """Parse the command line, check the host, supervise; exit code 2 where the host is unfit."""
    parser = argparse.ArgumentParser(description="Start a worker for the clone this command lies in.")
    parser.add_argument("--pool", required=True, choices=settings.POOLS)
    parser.add_argument("--limit", type=int, help="runs at once (default: 1, and 8 for coordinators)")
    parser.add_argument(
        "--output", type=Path, help="file for the worker's log (default: data/runs/prefect/worker-<pool>.log)"
    )
    chosen = parser.parse_args()
    say()
    logging.getLogger("httpx").setLevel(logging.WARNING)
    api_url, home = os.environ.get("PREFECT_API_URL"), settings.home(ROOT)
    home.mkdir(parents=True, exist_ok=True)  # Prefect makes the last folder alone
    environment = settings.client(api_url or "", home)
    os.environ.update(environment)
    try:
        check(ROOT, chosen.pool, api_url)
    except Unfit as reason:
        log.error("%s", reason)
        sys.exit(2)
    output = chosen.output or home / f"worker-{chosen.pool}.log"
    limit = chosen.limit or LIMITS[chosen.pool]
    one = worker(ROOT, chosen.pool, limit, environment, output)
    log.info("%s on %s for %s, at most %d at once; its log: %s", one.name, ROOT, api_url, limit, output)
    supervise(Keeper(one))


if __name__ == "__main__":
    main()
