"""A real Prefect server on loopback with the settings we ship, for tests: its own state, a free port, and its log to look into."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from flows import embedded, service, settings

START_SECONDS = 120.0  # on two busy cores with a new database
STOP_SECONDS = 15.0
BUSY_SECONDS = 60.0
BAD = (" ERROR ", "| ERROR", "CRITICAL", "Traceback (most recent call last)")


class Server:
    """A server that runs, its address, and what it said."""

    def __init__(self, home: Path, port: int = 0, **environment: str) -> None:
        """home: state and log lie there, so that another Server can go on with them; environment: on top of our settings."""
        self.home, self.port = home, port or embedded.free_port()
        self.environment = {**settings.server(self.port, home, clean()), **environment}
        command = ["python", "-m", "prefect", "server", "start", "--host", settings.LOOPBACK, "--port", str(self.port)]
        self.log = home / "server.log"
        self.service = service.Service("server", command, self.environment, home, self.log)
        self.http = httpx.Client(base_url=self.url + "/api", timeout=30)

    @property
    def url(self) -> str:
        """Where a browser finds it."""
        return f"http://{settings.LOOPBACK}:{self.port}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.home.mkdir(parents=True, exist_ok=True)
        self.service.start()
        until(lambda: embedded.answers(self.url + "/api/health") or not self.service.runs, START_SECONDS)
        assert self.service.runs, self.log.read_text()

    def stop(self) -> None:
        """Stop it, and whatever it started."""
        self.service.stop(STOP_SECONDS)

    def errors(self) -> list[str]:
        """Lines of its log that say something went wrong; there must be none."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return [line for line in text.splitlines() if any(mark in line for mark in BAD)]

    def post(self, path: str, **body: Any) -> Any:
        """What the API answers to a POST."""
        return self._good("POST", path, json=body).json()

    def get(self, path: str) -> Any:
        """What the API answers to a GET."""
        return self._good("GET", path).json()

    def _good(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Asks again while the server is unavailable, as Prefect's client does: SQLite is locked now and then on a busy machine."""
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            answer = self.http.request(method, path, **options)
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE or time.monotonic() > deadline:
                assert answer.is_success, answer.text
                return answer
            time.sleep(0.5)

    def start_run(self, deployment: str, **parameters: Any) -> str:
        """Start a run of `flow/deployment`; its id."""
        there = self.get(f"/deployments/name/{deployment}")
        return str(self.post(f"/deployments/{there['id']}/create_flow_run", parameters=parameters)["id"])

    def state(self, run: str) -> str:
        """Name of a flow run's state: Running, Completed, Crashed, ..."""
        return str(self.get(f"/flow_runs/{run}")["state_name"])


@contextlib.contextmanager
def running(home: Path, **environment: str) -> Iterator[Server]:
    """A server for a `with`."""
    one = Server(home, 0, **environment)
    one.start()
    try:
        yield one
    finally:
        one.http.close()
        one.stop()


def clean(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Our environment without what Prefect or Tutelage were told in it: a test says all of that itself."""
    return {name: value for name, value in environment.items() if not name.startswith(("PREFECT", "TUTELAGE"))}


def until(true: Callable[[], object], seconds: float, why: str = "") -> None:
    """Wait until something holds; an AssertionError when it takes too long."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s{': ' + why if why else ''}"
        time.sleep(0.1)
