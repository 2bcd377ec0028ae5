"""What Prefect is told through its environment: by the embedded server, by workers, and by tests that start either.

Every line stands for something that was measured to go wrong, or to go out to the network, without it.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from flows import leash

LOOPBACK = "127.0.0.1"
POOLS = ("tutelage", "tutelage-cpu", "tutelage-gpu")
"""Work pools: coordinators (pipeline, experiment, refresh), then stages by what they need."""


def patience(environment: Mapping[str, str] = os.environ) -> tuple[float, int]:
    """AWAY_SECONDS and SILENCE_SECONDS: $TUTELAGE_AWAY_SECONDS and $TUTELAGE_SILENCE_SECONDS, the same on all hosts of a fleet.

    Raises ValueError where a stage could still be saving when it is started elsewhere.
    """
    away = float(environment.get("TUTELAGE_AWAY_SECONDS", 180))
    silence = int(environment.get("TUTELAGE_SILENCE_SECONDS", 300))
    if not 0 < away <= silence - leash.SAVING_SECONDS - leash.LAST_SECONDS:
        raise ValueError(
            f"TUTELAGE_AWAY_SECONDS is {away:g} and TUTELAGE_SILENCE_SECONDS {silence}; the first must be above 0 and the "
            f"{leash.SAVING_SECONDS + leash.LAST_SECONDS:g} s that a stage may take to save smaller than the second, or two "
            "workers would write one stage"
        )
    return away, silence


AWAY_SECONDS, SILENCE_SECONDS = patience()
"""So long a stage on a worker goes on without the server, then it saves and stops: another worker may be about to start it.

A run whose heartbeat (one every 30 s) has been missing for the second is dead, and may be started elsewhere. The time in which the
server itself was away counts: back after 150 s with 120 s here, it marked a live run Crashed at once; with 300 s it may be away
for 270 s. A killed engine is told at once by its worker, and needs none of this."""

CLIENT = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_WORKER_QUERY_SECONDS": "1",  # 10 by default: two independent stages then went to one worker, one after the other
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # seconds, the least Prefect sends; see deploy.py for what listens
    "PREFECT_RUNNER_AUTO_INSTALL_DEPENDENCIES": "false",  # a clone brings its .venv: nothing is installed behind a run
    "PREFECT_LOGGING_EXTRA_LOGGERS": "flows",  # what flows.telemetry and others warn of stands in the log of the run, too
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",  # a thread of ours that belongs to no run: stderr has it
    "PREFECT_CLI_PROMPT": "false",
    "PREFECT_CLI_COLORS": "false",
}
SERVER = {
    # In memory, its default, slots held when the server is restarted are never given back.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    "PREFECT_SERVER_API_HOST": LOOPBACK,
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
}


def client(api_url: str, home: Path, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The whole environment of a process that talks to the server at `api_url` and keeps Prefect's files under `home`.

    What the caller's environment says already holds, except where the server is and where files lie: that is what is asked for.
    A profile of the caller's is left out, as it lies in another home.
    """
    own = {name: value for name, value in environment.items() if name != "PREFECT_PROFILE"}
    return {**CLIENT, **own, "PREFECT_API_URL": api_url, "PREFECT_HOME": str(home.absolute())}


def server(port: int, home: Path, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The whole environment of a server on loopback at `port`; its database, leases and logs lie under `home`."""
    url = api_url(port)
    return {**SERVER, **client(url, home, environment), "PREFECT_UI_API_URL": url}


def api_url(port: int) -> str:
    """Where a server on this machine answers."""
    return f"http://{LOOPBACK}:{port}/api"


def home(root: Path) -> Path:
    """Folder of Prefect's files of the clone at `root`: a database belongs on a local disk, and nobody's ~/.prefect is touched."""
    return root.absolute() / "data/runs/prefect"


def run_root(root: Path, environment: Mapping[str, str] = os.environ) -> Path:
    """Folder of the run folders of stages that run in the clone at `root`."""
    return Path(environment.get("TUTELAGE_RUNS", root / "data/runs")).absolute()
