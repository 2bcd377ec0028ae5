"""Tells people that a stage failed: an event that automations can react to and, where a block is named, a notification.

Flows call `failed` beside whatever else they do about it. Both go through the flow's Sender, so that neither a server that is
away nor a chat that does not answer keeps anything waiting; what did not get through stands in the log.
"""

import asyncio
import contextvars
import inspect
import logging
import threading
from collections.abc import Callable
from typing import Any
from uuid import UUID

from prefect.blocks.core import Block
from prefect.blocks.notifications import NotificationBlock
from prefect.client.orchestration import SyncPrefectClient
from prefect.events import Event, RelatedResource, Resource
from prefect.utilities.urls import url_for

from flows.telemetry import Sender, run_ids, told

log = logging.getLogger(__name__)
GATE, STAGE = "tutelage.gate.failed", "tutelage.stage.failed"
LONG = 3000  # characters of a reason: chats cut longer messages


class NotSent(Exception):
    """A notification that will not be tried again."""


def failed(
    sender: Sender,
    stage: str,
    reason: str,
    gate: bool = False,
    notify: str | None = None,
    flow_run_id: UUID | None = None,
    task_run_id: UUID | None = None,
    limit_seconds: float = 20.0,
) -> None:
    """Emit the event of a failed stage, or of a gate that stays shut, and notify. Returns at once, never raises.

    notify: `<type>/<name>` of a notification block, such as `slack-webhook/team`. Without ids it is the run this is called in.
    limit_seconds: for the notification, once the server is there to say what the block holds.
    """
    flow_run_id, task_run_id = run_ids(flow_run_id, task_run_id)
    event = event_of(stage, reason, gate, flow_run_id, task_run_id)
    sender.send(lambda client: _emit(client, event), f"event {event.event} of {stage} ({event.id})")
    if notify:
        subject = f"{'Gate' if gate else 'Stage'} {stage} failed"
        page = url_for("flow-run", flow_run_id) if flow_run_id else None
        body = "\n\n".join([reason[:LONG], *([page] if page else [])])
        sender.send(
            lambda client: _notify(client, notify, body, subject, limit_seconds),
            f"notification of {stage} through {notify} ({event.id})",
        )


def check(notify: str, limit_seconds: float = 20.0) -> None:
    """Is there such a notification block? For a flow's start: a wrong name should not show on the night something fails.

    Raises ValueError saying what is wrong, TimeoutError where the server does not answer in time.
    """
    _within(limit_seconds, lambda: _load(notify))


def event_of(stage: str, reason: str, gate: bool, flow_run_id: UUID | None, task_run_id: UUID | None) -> Event:
    """`tutelage.gate.failed` or `tutelage.stage.failed` about `tutelage.stage.<stage>`, related to the runs."""
    ids = (("flow-run", flow_run_id), ("task-run", task_run_id))
    related = [
        RelatedResource({"prefect.resource.id": f"prefect.{role}.{one}", "prefect.resource.role": role})
        for role, one in ids
        if one
    ]
    resource = Resource({"prefect.resource.id": f"tutelage.stage.{stage}", "prefect.resource.name": stage})
    payload = {"stage": stage, "reason": reason[:LONG]}
    return Event(event=GATE if gate else STAGE, resource=resource, related=related, payload=payload)


def _emit(client: SyncPrefectClient, event: Event) -> None:
    """Post the event itself: Prefect's emit_event drops it when the server is away. Its id makes a second post harmless."""
    client.request("POST", "/events", json=[event.model_dump(mode="json")])


def _notify(client: SyncPrefectClient, name: str, body: str, subject: str, limit_seconds: float) -> None:
    """Load the block and send. Raises what the server's absence raises, which is tried again, and NotSent, which is not."""
    client.request("GET", "/health")

    def send() -> None:
        _result(_load(name).notify(body, subject))

    try:
        _within(limit_seconds, send)
    except Exception as error:
        raise NotSent(told(error)) from error


def _load(name: str) -> NotificationBlock:
    """The block of that name. Raises ValueError where it is none, or not there."""
    try:
        block = _result(Block.load(name))
    except ValueError as error:
        raise ValueError(
            f"notify: {name!r} is no block of this server ({error}). Give '<type>/<name>' of a notification block, as the "
            "page Blocks of the UI shows it, or leave it empty."
        ) from error
    if not isinstance(block, NotificationBlock):
        raise ValueError(
            f"notify: {name!r} is a {type(block).__name__}, which cannot notify; choose a notification block."
        )
    return block


def _result(answer: Any) -> Any:
    """What a call of Prefect's gave: inside an asynchronous flow it gives a coroutine."""

    async def awaited() -> Any:
        return await answer

    return asyncio.run(awaited()) if inspect.isawaitable(answer) else answer


def _within(seconds: float, work: Callable[[], object]) -> None:
    """Run work in a thread and wait for it this long at most; raises its error, or TimeoutError and leaves it behind."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), name="announce", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"no answer within {seconds:g} s")
    if errors:
        raise errors[0]
