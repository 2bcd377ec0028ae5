"""Telemetry: it arrives at the right run, waits out a server that is away, and never makes anybody wait or fail."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prefect import flow, task
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import Artifact
from prefect.runtime import flow_run, task_run
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import telemetry
from flows.artifacts import Shown
from flows.telemetry import Sender

pytestmark = pytest.mark.usefixtures("harness")


@pytest.fixture
def sender() -> Iterator[Sender]:
    made = Sender()
    yield made
    made.close(10)


@pytest.fixture
def nowhere() -> Iterator[str]:
    """The address of a server that is not there: a port nobody listens at."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/api"


def stored(key: str) -> list[Artifact]:
    with get_client(sync_client=True) as client:
        answer = client.request("POST", "/artifacts/filter", json={"artifacts": {"key": {"any_": [key]}}})
    return Artifact.model_validate_list(answer.json())


def say(tell: Path, step: int, steps: int = 10, **more: Any) -> None:
    """As the training process does: a whole file takes the old one's place."""
    (tell / ".new").write_text(json.dumps({"title": "train", "step": step, "steps": steps, **more}))
    (tell / ".new").replace(tell / "progress.json")


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


class Forgetful(BaseHTTPRequestHandler):
    """Passes requests on to the server; the answer to the first artifact made is never given."""

    behind, forgot = "", 0

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        kind = {"Content-Type": self.headers.get("Content-Type", "application/json")}
        answer = httpx.request(self.command, self.behind + self.path, content=body, headers=kind)
        if (self.command, self.path) == ("POST", "/api/artifacts/") and not Forgetful.forgot:
            Forgetful.forgot += 1
            return  # the connection closes without a word
        self.send_response(answer.status_code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    do_POST = do_PATCH = do_GET

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def forgetful() -> Iterator[str]:
    """Address of a server that obeys, and once does not say so."""
    Forgetful.behind, Forgetful.forgot = str(PREFECT_API_URL.value()).removesuffix("/api"), 0
    with ThreadingHTTPServer(("127.0.0.1", 0), Forgetful) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/api"
        server.shutdown()


class Held:
    """An update that waits until it is let go: what is sent meanwhile queues up behind it."""

    def __init__(self, sender: Sender) -> None:
        self.began, self.go = threading.Event(), threading.Event()
        sender.send(self)
        assert self.began.wait(20)

    def __call__(self, _: SyncPrefectClient) -> None:
        self.began.set()
        self.go.wait(20)


def test_send__keeps_the_newest_of_what_replaces_itself(sender: Sender) -> None:
    seen: list[int] = []
    held = Held(sender)
    for number in range(1000):
        sender.send(lambda _, number=number: seen.append(number), "progress")
    sender.send(lambda _: seen.append(-1))
    held.go.set()
    assert sender.close(20) == 0
    assert seen == [999, -1]


def test_send__does_not_grow_without_end() -> None:
    sender = Sender(room=3)
    seen: list[int] = []
    held = Held(sender)
    for number in range(10):
        sender.send(lambda _, number=number: seen.append(number))
    held.go.set()
    assert sender.close(20) == 8  # the one that was held made way too, though it was under way
    assert seen == [7, 8, 9]


def test_send__tries_again_what_failed_because_the_server_was_away(sender: Sender) -> None:
    tries: list[str] = []

    def flaky(_: SyncPrefectClient) -> None:
        tries.append("x")
        if len(tries) < 3:
            raise httpx.ConnectError("away")

    sender.send(flaky)
    assert sender.close(20) == 0 and len(tries) == 3


def test_send__gives_up_what_can_never_arrive(sender: Sender, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []

    def refused(client: SyncPrefectClient) -> None:
        seen.append("refused")
        client.request("POST", "/artifacts/", json={"key": "NOT A KEY"})

    sender.send(refused, "a bad one")
    sender.send(lambda _: seen.append("next"))
    assert sender.close(20) == 1
    assert seen == ["refused", "next"]  # tried once: the same request would be refused again
    assert "a bad one is left out" in caplog.text and "422" in caplog.text


def test_close__does_not_wait_for_a_server_that_is_away(nowhere: str, caplog: pytest.LogCaptureFixture) -> None:
    with temporary_settings({PREFECT_API_URL: nowhere}):
        sender = Sender()
        start = time.monotonic()
        for number in range(3):
            telemetry.post(sender, Shown("markdown", f"away-{number}", "text", "about"), uuid4())
        assert sender.close(0.5) == 3
    assert time.monotonic() - start < 5
    assert "3 updates did not reach the Prefect server: away-0" in caplog.text


def test_no_server__means_nothing_is_sent_and_none_is_started() -> None:
    before = threading.active_count()
    with temporary_settings({PREFECT_API_URL: None}):
        sender = Sender()
        sender.send(lambda _: pytest.fail("sent"))
        assert threading.active_count() == before
        assert sender.close(1) == 0


def test_post__shows_it_at_the_run_it_is_called_in() -> None:
    key = f"metrics-{uuid4().hex}"

    @task
    def stage() -> str:
        telemetry.post(senders[0], Shown("table", key, '[{"metric": "top1", "value": 97.5}]', "What it measured"))
        return str(task_run.id)

    @flow
    def night() -> tuple[str, str]:
        senders.append(Sender())
        ids = (str(flow_run.id), stage())
        assert senders[0].close(20) == 0
        return ids

    senders: list[Sender] = []
    ids = night()
    (shown,) = stored(key)
    assert (str(shown.flow_run_id), str(shown.task_run_id)) == ids
    assert (shown.type, shown.description) == ("table", "What it measured")
    assert json.loads(str(shown.data)) == [{"metric": "top1", "value": 97.5}]


def test_post__shows_once_what_the_server_stored_without_saying_so(forgetful: str) -> None:
    shown = Shown("markdown", f"once-{uuid4().hex}", "text", "about")
    with temporary_settings({PREFECT_API_URL: forgetful}):
        sender = Sender()
        telemetry.post(sender, shown, uuid4())
        assert sender.close(20) == 0
    assert Forgetful.forgot == 1 and len(stored(shown.key)) == 1


def test_progress__is_one_artifact_kept_up_to_date(sender: Sender, tmp_path: Path) -> None:
    stage, run = f"stage{uuid4().hex}", uuid4()
    seen = []
    with telemetry.progress(stage, tmp_path, sender, every_seconds=0.05, flow_run_id=run):
        for step in (2, 5, 10):
            say(tmp_path, step, seconds_left=3 * step, numbers={"loss": 0.5, "images_per_second": 1234.5})
            until(lambda step=step: [one.data for one in stored(f"progress-{stage}")] == [10.0 * step])
            seen.append(stored(f"progress-{stage}")[0].description)
    assert seen == [
        f"**{stage}** train · step 2 of 10 · 6 s left · loss 0.5 · 1,234 images/s",
        f"**{stage}** train · step 5 of 10 · 15 s left · loss 0.5 · 1,234 images/s",
        f"**{stage}** train · all 10 steps done · loss 0.5 · 1,234 images/s",
    ]
    assert sender.close(20) == 0
    assert len(stored(f"progress-{stage}")) == 1


def test_progress__of_a_stage_that_fails_stays_where_it_stopped(sender: Sender, tmp_path: Path) -> None:
    stage = f"stage{uuid4().hex}"
    with pytest.raises(ZeroDivisionError), telemetry.progress(stage, tmp_path, sender, flow_run_id=uuid4()):
        say(tmp_path, 9_999, 10_000, seconds_left=4)
        raise ZeroDivisionError
    assert sender.close(20) == 0
    (shown,) = stored(f"progress-{stage}")
    assert shown.data == 99.9 and shown.description == f"**{stage}** train · stopped at step 9,999 of 10,000"


def test_progress__without_a_file_or_with_an_old_one_shows_nothing(sender: Sender, tmp_path: Path) -> None:
    stage = f"stage{uuid4().hex}"
    with telemetry.progress(stage, tmp_path, sender, every_seconds=0.02):
        time.sleep(0.1)
    say(tmp_path, 10)  # a run before this one
    with telemetry.progress(stage, tmp_path, sender, every_seconds=0.02):
        time.sleep(0.1)
    assert sender.close(20) == 0
    assert stored(f"progress-{stage}") == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"step": 1, "ste',
        "[]",
        "null",
        '{"step": 1}',
        '{"step": -1, "steps": 2}',
        '{"step": 1, "steps": 0}',
        '{"step": NaN, "steps": 1}',
        '{"step": 1, "steps": 1e999}',
        '{"step": 1, "steps": 2, "numbers": [1]}',
        "\ud800",
    ],
)
def test_read__ignores_what_makes_no_sense(tmp_path: Path, text: str) -> None:
    path = tmp_path / "progress.json"
    path.write_bytes(text.encode(errors="surrogatepass"))
    assert telemetry.read(path) is None
    assert telemetry.read(tmp_path) is None and telemetry.read(tmp_path / "missing") is None


def test_read__keeps_the_rest_of_a_line_with_an_odd_value(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    path.write_text(
        '{"step": 3, "steps": 4, "seconds_left": NaN, "numbers": {"loss": NaN, "lr": 0.1, "x": "y"}, "folder": 7}'
    )
    assert telemetry.read(path) == telemetry.State("", 3, 4, None, {"lr": 0.1}, None)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "0 s"), (99.4, "99 s"), (100, "2 min"), (5900, "98 min"), (12_000, "3 h 20 min"), (187_200, "2 d 4 h")],
)
def test_duration__is_said_as_people_say_it(seconds: float, expected: str) -> None:
    assert telemetry.duration(seconds) == expected


def test_description__links_to_the_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTELAGE_TENSORBOARD_URL", "http://board.example")
    state = telemetry.State("distill", 1, 4, 7200, {"waiting_share": 0.031, "lr": 1.5e-4}, "/runs/distill/0123")
    assert telemetry.description("distill", state, over=False) == (
        "**distill** · step 1 of 4 · 2 h 0 min left · waits for data 3 % of the time · lr 0.00015 · "
        "[TensorBoard](<http://board.example/?runFilter=distill%2F0123#timeseries>)"
    )


def test_told__an_error_that_quotes_a_password_does_not() -> None:
    said = telemetry.told(httpx.ConnectError("no route to https://admin:pl4nted@host/api?token=pl4nted"))
    assert said == "ConnectError: no route to https://***@host/api?token=***"
