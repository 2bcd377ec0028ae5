"""Prefect on one machine, for `make prefect` (`python -m flows.embedded`): server, pools, deployments and a worker, until
Ctrl-C.

All of it listens on loopback and keeps its state in data/runs/prefect, so runs and schedules survive a restart, and nobody's
~/.prefect is touched. TensorBoard on the run folders and the report are served beside it, and stages link to them. A fleet has
a server of its own (docs/operations.md) and `make worker` on each host.
"""

import argparse
import contextlib
import fcntl
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from flows import service, settings
from stages.lib.params.credentials import say

log = logging.getLogger(__name__)
ROOT = Path(__file__).parents[1]
PORT = 4200
START_SECONDS = 180.0
"""For the first answer: a new database takes 10 s on a quiet machine."""
WORKER_SECONDS = 80.0
"""For a worker to stop: see flows/worker.py, 55 s for its runs and what they leave, 20 s to tell the server."""
STOP_SECONDS = 15.0
LISTENS = "0A"  # state of a listening socket in /proc/net/tcp


class Refused(Exception):
    """It can't start here and now: why, and what to do."""


class Stopped(Exception):
    """Ctrl-C or SIGTERM while starting."""


class Embedded:
    """The services of one machine, in the order of their start; they are stopped in the opposite one."""

    def __init__(self, root: Path, home: Path, port: int, pools: Sequence[str], beside: bool) -> None:
        """root: the clone; home: the state's folder; pools: each gets a worker; beside: TensorBoard and the report too."""
        self.root, self.home, self.pools, self.beside = root, home, pools, beside
        self.port = port or free_port()
        self.environment = settings.server(self.port, home)
        self.services: list[service.Service] = []
        self.asked: list[int] = []

    @property
    def url(self) -> str:
        """Where a browser finds it."""
        return f"http://{settings.LOOPBACK}:{self.port}"

    def run(self) -> None:
        """Start, say where it is, look after the services until SIGTERM or SIGINT, stop. In the main thread."""
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._remember)
        try:
            self._start()
            log.info("Tutelage is at %s   (Ctrl-C stops it; logs and state: %s)", self.url, self.home)
            while not self.asked:
                for one in self.services:
                    one.look()
                time.sleep(0.5)
        except Stopped:
            pass
        finally:
            self._stop()

    def _remember(self, signum: int, _frame: FrameType | None) -> None:
        self.asked.append(signum)

    def _start(self) -> None:
        """The server, what it must know, then the others, whose addresses the worker's runs are told."""
        log.info("starting Prefect's server, which takes some seconds ...")
        server = [
            sys.executable,
            "-m",
            "prefect",
            "server",
            "start",
            "--host",
            settings.LOOPBACK,
            "--port",
            str(self.port),
        ]
        self._add("server", server)
        self._answer()
        self._once("flows.settle", "--alone", "--why", "it ran when this machine's Prefect was killed")
        self._once("flows.deploy", needed=True)
        if self.beside:
            self._add_pages()
        for pool in self.pools:
            self._add(f"worker of {pool}", [sys.executable, "-m", "flows.worker", "--pool", pool])

    def _add(self, name: str, command: list[str]) -> None:
        output = self.home / f"{name.replace(' ', '-')}.log"
        one = service.Service(name, command, self.environment, self.root, output)
        self.services.append(one)
        one.start()

    def _add_pages(self) -> None:
        """TensorBoard on the run folders, and the report, at the two ports after the server's where these are free."""
        board, report = (port if usable(port) else free_port() for port in (self.port + 1, self.port + 2))
        self.environment["TUTELAGE_TENSORBOARD_URL"] = f"http://{settings.LOOPBACK}:{board}/"
        self.environment["TUTELAGE_REPORT_URL"] = f"http://{settings.LOOPBACK}:{report}/index.html"
        host = ["--host", settings.LOOPBACK, "--port", str(board)]
        logdir = ["--logdir", str(settings.run_root(self.root)), "--reload_interval", "15"]
        self._add("tensorboard", [sys.executable, "-m", "tensorboard.main", *logdir, *host])
        pages = ["--bind", settings.LOOPBACK, "--directory", str(self.root / "data/reports"), str(report)]
        self._add("report", [sys.executable, "-m", "http.server", *pages])

    def _answer(self) -> None:
        """Wait until the server answers. Raises Refused when it ended or takes too long, Stopped when we are to stop."""
        server = self.services[0]
        deadline = time.monotonic() + START_SECONDS
        while not answers(f"{self.url}/api/health"):
            self._go_on()
            if not server.runs or time.monotonic() > deadline:
                tail = "\n".join(server.output.read_text(errors="replace").splitlines()[-15:])
                raise Refused(f"the server did not start. The end of {server.output}:\n{tail}")
            time.sleep(0.2)

    def _once(self, module: str, *arguments: str, needed: bool = False) -> None:
        """Run a module of ours to its end; a failure is an end of ours too where it is needed."""
        self._go_on()
        command = [sys.executable, "-m", module, *arguments]
        done = subprocess.Popen(command, env=self.environment, cwd=self.root, start_new_session=True)
        try:
            while done.poll() is None:
                self._go_on()
                time.sleep(0.1)
        finally:
            if done.poll() is None:
                done.kill()
        if done.returncode and needed:
            raise Refused(f"`python -m {module}` failed ({service.ending(done.returncode)}); see above")

    def _go_on(self) -> None:
        if self.asked:
            raise Stopped

    def _stop(self) -> None:
        """Workers first, so that the server hears how their runs ended."""
        if self.services:
            log.info("stopping; stages that run save first")
        for one in reversed(self.services):
            one.stop(WORKER_SECONDS if one.name.startswith("worker") else STOP_SECONDS)


@contextlib.contextmanager
def held(home: Path, url: str) -> Iterator[None]:
    """Hold the state's folder, a lock that the kernel drops with us. Raises Refused where another start holds it."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "embedded.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            with contextlib.suppress(ValueError):
                there = json.loads(lock.read())
                raise Refused(
                    f"it runs already: {there['url']} (process {there['process']}, state in {home}). Open that, or stop it first."
                ) from None
            raise Refused(f"another start holds {home} at this moment. Try again in a minute.") from None
        lock.truncate(0)
        lock.write(json.dumps({"url": url, "process": os.getpid()}))
        lock.flush()
        yield


def answers(url: str) -> bool:
    """Whether a GET of `url` gives a 2xx within a second or two."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return 200 <= int(answer.status) < 300
    except (urllib.error.URLError, OSError, ValueError):
        return False


def usable(port: int) -> bool:
    """Whether one may listen at this port of loopback."""
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((settings.LOOPBACK, port))
        except (OSError, OverflowError):
            return False
        return True


def free_port() -> int:
    """A port of loopback that nobody listens at right now."""
    with socket.socket() as one:
        one.bind((settings.LOOPBACK, 0))
        return int(one.getsockname()[1])


def holder(port: int) -> str:
    """Who listens at a port, as far as we may see: `process 123: python -m prefect server start`."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == LISTENS and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if os.readlink(link) in inodes:
                command = (link.parents[1] / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                return f"process {link.parents[1].name}: {command.strip()[:120]}"
    return "a process we may not see"


def main() -> None:
    """Parse the command line and run; exit code 2 where it can't start."""
    parser = argparse.ArgumentParser(
        description="Prefect on this machine: server, deployments and a worker, until Ctrl-C."
    )
    parser.add_argument(
        "--port", type=int, default=PORT, help=f"of the server on loopback (default: {PORT}; 0: any free one)"
    )
    parser.add_argument(
        "--pools", nargs="+", default=[settings.POOLS[0]], choices=settings.POOLS, help="each gets a worker here"
    )
    parser.add_argument("--bare", action="store_true", help="no TensorBoard and no report beside it")
    chosen = parser.parse_args()
    say()
    one = Embedded(ROOT, settings.home(ROOT), chosen.port, chosen.pools, not chosen.bare)
    try:
        with held(one.home, one.url):
            if not usable(one.port):
                by = holder(one.port)
                raise Refused(
                    f"port {one.port} is taken by {by}. Stop that, or take another port: make prefect PORT={one.port + 1}"
                )
            one.run()
    except Refused as reason:
        log.error("%s", reason)
        sys.exit(2)


if __name__ == "__main__":
    main()
