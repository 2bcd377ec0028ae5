"""A worker's host is looked at before it starts, and what is missing is said."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from flows import settings, worker


class _Answers(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        pools = [{"name": "tutelage", "type": "process", "default_queue_id": "00000000-0000-0000-0000-000000000001"}]
        body = json.dumps([{"id": "00000000-0000-0000-0000-000000000000", **pool} for pool in pools]).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.send_error(404)  # as a server without CSRF protection

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def api() -> Iterator[str]:
    """Where something answers as Prefect does when it is asked for its pools."""
    server = ThreadingHTTPServer((settings.LOOPBACK, 0), _Answers)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield settings.api_url(server.server_port)
    server.shutdown()
    server.server_close()


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").touch()
    (tmp_path / "dvc.yaml").touch()
    return tmp_path


def test_a_fit_host(clone: Path, api: str) -> None:
    worker.check(clone, "tutelage", api)


@pytest.mark.parametrize("missing", ["dvc.yaml", ".git", ".venv"])
def test_no_clone_or_not_set_up(clone: Path, api: str, missing: str) -> None:
    (clone / missing).rename(clone / "elsewhere")
    with pytest.raises(worker.Unfit, match=missing.replace(".", r"\.")):
        worker.check(clone, "tutelage", api)


def test_no_address_no_answer_no_pool(clone: Path, api: str) -> None:
    with pytest.raises(worker.Unfit, match="PREFECT_API_URL is not set"):
        worker.check(clone, "tutelage", None)
    with pytest.raises(worker.Unfit, match="no Prefect server answers at PREFECT_API_URL=http://127"):
        worker.check(clone, "tutelage", "http://127.0.0.1:9/api")
    with pytest.raises(worker.Unfit, match=r"no work pool 'tutelage-gpu', but \['tutelage'\]"):
        worker.check(clone, "tutelage-gpu", api)


def test_the_command_names_the_clone_and_the_host(tmp_path: Path) -> None:
    one = worker.worker(tmp_path, "tutelage-gpu", 1, {"PATH": "/bin"}, tmp_path / "log", host="node7")
    assert one.environment["TUTELAGE_CLONE"] == str(tmp_path)
    assert one.command[one.command.index("--name") + 1] == "node7-tutelage-gpu"
    assert one.command[one.command.index("--limit") + 1] == "1"
    assert set(worker.LIMITS) == set(settings.POOLS)


def test_stopping_takes_less_than_a_minute() -> None:
    assert worker.RUNS_SECONDS + 2 * worker.LEAVE_SECONDS < 60
