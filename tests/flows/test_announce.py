"""Telling people: the event arrives and names the stage, a real webhook is called, and neither keeps anybody waiting."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from uuid import uuid4

import pytest
from prefect import flow
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import get_client
from prefect.events.filters import EventFilter, EventResourceFilter
from prefect.events.schemas.events import ReceivedEvent
from prefect.runtime import flow_run

from flows import announce
from flows.telemetry import Sender
from tests.flows.staged import until

pytestmark = pytest.mark.usefixtures("harness")


class Chat(BaseHTTPRequestHandler):
    """Where the team reads; remembers what it got, and is silent at /silent."""

    got: list[dict[str, str]] = []  # noqa: RUF012  the server makes a handler a request
    over = threading.Event()

    def do_POST(self) -> None:
        Chat.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        if self.path == "/silent":
            Chat.over.wait(30)
        self.send_response(500 if self.path == "/broken" else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def chat() -> Iterator[str]:
    Chat.got.clear()
    Chat.over.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Chat) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        Chat.over.set()
        server.shutdown()


def block(url: str) -> str:
    """A stored webhook block; returns what people give as `notify`."""
    name = f"team{uuid4().hex}"
    data = {"title": "{{subject}}", "text": "{{body}}"}
    CustomWebhookNotificationBlock(name="team", url=url, json_data=data).save(name)
    return f"custom-webhook/{name}"


def events(stage: str) -> list[ReceivedEvent]:
    """Of a stage; the server stores them a little later."""
    wanted = EventFilter(resource=EventResourceFilter(id=[f"tutelage.stage.{stage}"]))  # type: ignore[call-arg]
    end = time.monotonic() + 20
    with get_client(sync_client=True) as client:
        while not (found := client.read_events(wanted, limit=50).events) and time.monotonic() < end:
            time.sleep(0.1)
    return found


def test_failed__tells_the_server_and_the_team(chat: str) -> None:
    stage = f"validate-shards@{uuid4().hex}"
    notify = block(f"{chat}/team")

    @flow
    def night() -> str:
        sender = Sender()
        announce.failed(sender, stage, "2 rows differ: toy-0.tar", gate=True, notify=notify)
        announce.failed(sender, f"{stage}-other", "the loss is not finite")  # nobody to notify
        assert sender.close(30) == 0
        return str(flow_run.id)

    run = night()
    (event,) = events(stage)
    assert event.event == "tutelage.gate.failed" and event.payload["reason"] == "2 rows differ: toy-0.tar"
    assert [one.id for one in event.related] == [f"prefect.flow-run.{run}"]
    assert [one.event for one in events(f"{stage}-other")] == ["tutelage.stage.failed"]
    (message,) = Chat.got
    assert message["title"] == f"Gate {stage} failed" and message["text"].startswith("2 rows differ: toy-0.tar")


@pytest.mark.parametrize(("path", "expected"), [("/broken", "500"), ("/silent", "no answer within 0.5 s")])
def test_failed__says_in_the_log_that_the_team_was_not_reached(
    chat: str, caplog: pytest.LogCaptureFixture, path: str, expected: str
) -> None:
    sender, stage, notify, next_one = Sender(), f"distill{uuid4().hex}", block(chat + path), threading.Event()
    announce.failed(sender, stage, "reason", notify=notify, limit_seconds=0.5 if path == "/silent" else 20)
    sender.send(lambda _: next_one.set())
    assert sender.close(20) == 1 and next_one.is_set()
    assert f"notification of {stage} through {notify}" in caplog.text and expected in caplog.text
    until(lambda: Chat.got)  # on a busy machine the call is made when its time has passed
    assert len(Chat.got) == 1  # once: people are not told twice


def test_failed__with_a_block_that_is_not_there_says_so(caplog: pytest.LogCaptureFixture) -> None:
    sender = Sender()
    announce.failed(sender, f"distill{uuid4().hex}", "reason", notify="custom-webhook/nobody")
    assert sender.close(20) == 1
    assert "'custom-webhook/nobody' is no block of this server" in caplog.text


def test_check__refuses_a_wrong_name_beforehand(chat: str) -> None:
    announce.check(block(chat))
    for name in ("custom-webhook/nobody", "nonsense", "no-such-type/x"):
        with pytest.raises(ValueError, match=f"'{name}' is no block of this server"):
            announce.check(name)


def test_event__is_cut_where_a_reason_is_endless() -> None:
    event = announce.event_of("distill", "x" * 10_000_000, False, None, None)
    assert len(event.payload["reason"]) == announce.LONG and event.related == []
