"""What people see of a stage while it runs and after it, sent best effort: it never fails a stage and never makes one wait.

Flows own one Sender a process. Whoever has something to show hands it a callable and goes on; a daemon thread sends, waits out a
server that is away, and keeps only the newest of what replaces itself. A bare call of Prefect's artifact functions raises in an
outage and fails the stage, and blocks whoever reads the training process's output, which then stalls.
"""

import contextlib
import contextvars
import itertools
import json
import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.objects import Artifact
from prefect.context import AsyncClientContext, SyncClientContext
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.utilities.context import get_task_and_flow_run_ids

from flows import artifacts
from flows.artifacts import Shown
from stages.lib.params.credentials import masked

log = logging.getLogger(__name__)
Update = Callable[[SyncPrefectClient], None]
PASSING = (408, 429, 500, 502, 503, 504)  # answers of a server that may do better next time
TRIES = 5  # of one update at a server that answers: then it is the update's fault, and the others get their turn
LONG, SEVERAL = 100, 8  # characters of a title or name, numbers: a line of text is wanted, whatever a stage writes
SHORT_SECONDS = 1.0  # between tries while a flow waits in close()


class Sender:
    """Sends updates to the Prefect server from a thread of its own. One a flow process; made where the flow runs.

    timeout_seconds: of one request. longest_pause_seconds: between tries while the server is away. room: updates kept; the oldest
    make way beyond it, and are counted as left out.
    """

    def __init__(self, timeout_seconds: float = 5.0, longest_pause_seconds: float = 10.0, room: int = 500) -> None:
        self.left_out = 0
        self._timeout_seconds, self._longest_pause_seconds, self._room = timeout_seconds, longest_pause_seconds, room
        self._waiting: OrderedDict[str, Update] = OrderedDict()
        self._changed = threading.Condition()
        self._closing = self._stopped = False
        self._numbers = itertools.count()
        self._complained: set[str] = set()
        self._address = _address()
        if self._address is None:
            log.info("no Prefect server: progress and artifacts are not shown")
            return
        # A thread starts with an empty context: prefect would not see this flow's settings, and start a server of its own.
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(self._run,), name="telemetry", daemon=True).start()

    def send(self, update: Update, key: str | None = None) -> None:
        """Have `update(client)` called soon; returns at once. One with the same key that still waits is replaced.

        An update that fails because the server is away is called again, so it must bear being called twice.
        """
        with self._changed:
            if self._address is None or self._closing:
                return
            self._waiting[f"update {next(self._numbers)}" if key is None else key] = update
            while len(self._waiting) > self._room:
                self._waiting.popitem(last=False)
                self.left_out += 1
            self._changed.notify_all()

    def close(self, seconds: float) -> int:
        """Wait at most this long for what is left, then stop; returns how many updates never arrived, and logs them."""
        end = time.monotonic() + seconds
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            while self._waiting and (left := end - time.monotonic()) > 0:
                self._changed.wait(left)
            self._stopped = True
            self.left_out += len(self._waiting)
            names = ", ".join(list(self._waiting)[:5])
            self._waiting.clear()
            self._changed.notify_all()
        if self.left_out:
            log.warning("%d updates did not reach the Prefect server%s", self.left_out, f": {names}" if names else "")
        return self.left_out

    def _run(self) -> None:
        """The thread: client, then one update after the other."""
        settings = {PREFECT_API_URL: self._address, PREFECT_CLIENT_MAX_RETRIES: 0}  # we know better when to try again
        with temporary_settings(settings):
            while True:
                try:
                    with get_client(httpx_settings={"timeout": self._timeout_seconds}, sync_client=True) as client:
                        self._serve(client)
                    return
                except Exception:  # a thread that dies silently would show nothing for hours
                    log.warning("the sender of progress and artifacts starts again", exc_info=True)
                    if not self._pause(self._longest_pause_seconds):
                        return

    def _serve(self, client: SyncPrefectClient) -> None:
        """Deliver what waits, and what will, until there is no more."""
        while (waiting := self._next()) is not None:
            self._deliver(client, *waiting)

    def _next(self) -> tuple[str, Update] | None:
        """The oldest update, left in its place; None once there will be no more."""
        with self._changed:
            while not self._waiting and not self._closing:
                self._changed.wait()
            return None if self._stopped or not self._waiting else next(iter(self._waiting.items()))

    def _deliver(self, client: SyncPrefectClient, key: str, update: Update) -> None:
        """Call an update until it is through, replaced or hopeless."""
        for attempt in range(1, TRIES + 1):
            try:
                update(client)
            except Exception as error:
                if not passing(error) or attempt == TRIES:
                    log.log(self._level_of(key), "%s is left out: %s", key, told(error))
                    self._done(key, update, lost=True)
                    return
                if not self._answers_again(client, error) or not self._is_newest(key, update):
                    return
            else:
                self._done(key, update)
                return

    def _level_of(self, key: str) -> int:
        """A warning for the first update of a key that is lost; more of the same would fill the log of a long training."""
        level = logging.DEBUG if key in self._complained else logging.WARNING
        self._complained.add(key)
        return level

    def _answers_again(self, client: SyncPrefectClient, error: BaseException) -> bool:
        """Wait until the server answers a request that changes nothing; False where the sender was stopped before.

        Sending the update itself again and again would store it as often: a server that hangs reads them all when it goes on.
        """
        start, pause_seconds, said = time.monotonic(), SHORT_SECONDS, False
        while self._pause(pause_seconds):
            failure = client.api_healthcheck()
            if failure is None:
                if said:
                    log.info("the Prefect server answers again after %.0f s", time.monotonic() - start)
                return True
            if not said:
                log.warning("the Prefect server is away, nothing stops for that: %s", told(error))
                said = True
            pause_seconds = min(2 * pause_seconds, self._longest_pause_seconds)
        return False

    def _pause(self, seconds: float) -> bool:
        """Sleep, shortly while close() waits; False once the sender is stopped."""
        end = time.monotonic() + seconds
        with self._changed:
            while not self._stopped:
                if self._closing:
                    end = min(end, time.monotonic() + SHORT_SECONDS)
                if (left := end - time.monotonic()) <= 0:
                    return True
                self._changed.wait(left)
        return False

    def _is_newest(self, key: str, update: Update) -> bool:
        with self._changed:
            return self._waiting.get(key) is update

    def _done(self, key: str, update: Update, lost: bool = False) -> None:
        with self._changed:
            self.left_out += lost
            if self._waiting.get(key) is update:
                del self._waiting[key]
            self._changed.notify_all()


def passing(error: BaseException) -> bool:
    """Whether the same request may succeed later: no answer, or an answer of a server in trouble."""
    if isinstance(error, PrefectHTTPStatusError):
        return error.response.status_code in PASSING
    return isinstance(error, httpx.TransportError)


def told(error: BaseException) -> str:
    """An error on one line."""
    return masked(" ".join(f"{type(error).__name__}: {error}".split()))[:300]


def post(sender: Sender, shown: Shown, flow_run_id: UUID | None = None, task_run_id: UUID | None = None) -> None:
    """Show an artifact at a run; without ids at the run this is called in. Returns at once, never raises."""
    flow_run_id, task_run_id = run_ids(flow_run_id, task_run_id)
    sender.send(_Posted(flow_run_id, task_run_id).update(shown), f"{shown.key} of {task_run_id or flow_run_id}")


def show(sender: Sender, root: Path, stage: str, outs: Sequence[str], run_folder: Path | None) -> None:
    """Show at the run this is called in what a stage made, and where to read on: at its curves, or the page for `report`."""
    for shown in artifacts.of_stage(root, outs, stage):
        post(sender, shown)
    if run_folder or stage == "report":
        links = artifacts.links(stage, run_folder)
        if links:
            post(sender, links)


@contextlib.contextmanager
def progress(
    stage: str,
    tell: Path,
    sender: Sender,
    every_seconds: float = 5.0,
    flow_run_id: UUID | None = None,
    task_run_id: UUID | None = None,
) -> Iterator[None]:
    """Show <tell>/progress.json as a progress artifact of a run while the body runs, and where it stopped afterwards.

    Without ids it is the run this is called in. The file's writer replaces it whole: {"title", "step", "steps", "seconds_left",
    "numbers": {name: value}, "folder": run folder}. No file, no artifact; a file from before the body counts as none.
    """
    flow_run_id, task_run_id = run_ids(flow_run_id, task_run_id)
    follower = _Follower(stage, tell / "progress.json", sender, _Posted(flow_run_id, task_run_id))
    over = threading.Event()

    def follow() -> None:
        while not over.wait(every_seconds):
            follower.look()

    thread = threading.Thread(target=follow, name=f"progress of {stage}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(1.0)  # it may sit in a read of a file system that hangs: not our stage's trouble
        if not thread.is_alive():
            follower.look(over=True)


@dataclass(frozen=True)
class State:
    """A line of progress.json that makes sense."""

    title: str
    step: float
    steps: float
    seconds_left: float | None
    numbers: dict[str, float]
    folder: str | None

    @property
    def percent(self) -> float:
        """0 to 100; 100 only when nothing is left to do."""
        return 100.0 if self.step >= self.steps else math.floor(1000 * self.step / self.steps) / 10


def read(path: Path) -> State | None:
    """What the training process last said; None where there is nothing, or nothing that makes sense."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        step, steps = float(found["step"]), float(found["steps"])
        if not (math.isfinite(step) and math.isfinite(steps) and 0 <= step and 0 < steps):
            return None
        left = found.get("seconds_left")
        numbers = found.get("numbers") or {}
        return State(
            title=str(found.get("title") or "")[:LONG],
            step=step,
            steps=steps,
            seconds_left=float(left) if _is_number(left) and left >= 0 else None,
            numbers={
                str(name)[:LONG]: float(value) for name, value in list(numbers.items())[:SEVERAL] if _is_number(value)
            },
            folder=found["folder"] if isinstance(found.get("folder"), str) else None,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def description(stage: str, state: State, over: bool) -> str:
    """One line of markdown: `**distill** · step 320 of 1,000 · 12 min left · loss 1.23 · 512 images/s`."""
    where = f"step {state.step:,.0f} of {state.steps:,.0f}"
    parts = [f"**{stage}**" + (f" {state.title}" if state.title not in ("", stage) else "")]
    if state.step >= state.steps:
        parts.append(f"all {state.steps:,.0f} steps done")
    else:
        parts.append(f"stopped at {where}" if over else where)
        parts += [f"{duration(state.seconds_left)} left"] if state.seconds_left is not None and not over else []
    parts += [_said(name, value) for name, value in state.numbers.items()]
    board = artifacts.tensorboard_url(Path(state.folder)) if state.folder else None
    parts += [f"[TensorBoard](<{board}>)"] if board else []
    return " · ".join(parts)


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 20 min`, `2 d 4 h`."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    if minutes < 100:
        return f"{minutes} min"
    return (
        f"{minutes // 60} h {minutes % 60} min" if minutes < 2880 else f"{minutes // 1440} d {minutes % 1440 // 60} h"
    )


def _said(name: str, value: float) -> str:
    if name == "images_per_second":
        return f"{value:,.0f} images/s" if value >= 10 else f"{value:.2g} images/s"
    if name == "waiting_share":
        return f"waits for data {100 * value:.0f} % of the time"
    return f"{name.replace('_', ' ')} {value:.4g}"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


class _Follower:
    """Looks at progress.json and sends what changed."""

    def __init__(self, stage: str, path: Path, sender: Sender, posted: "_Posted") -> None:
        self._stage, self._path, self._sender, self._posted = stage, path, sender, posted
        self._seen = self._stamp()  # of a run before this one: not ours
        self._last: State | None = None

    def look(self, over: bool = False) -> None:
        """Send the newest state if it is new, or if the stage is over and there ever was one. Never raises."""
        try:
            self._look(over)
        except Exception:  # it runs in the stage's own thread at the end
            log.warning("the progress of %s could not be shown", self._stage, exc_info=True)

    def _look(self, over: bool) -> None:
        stamp = self._stamp()
        state = read(self._path) if stamp is not None and stamp != self._seen else None
        if state is not None:
            self._seen, self._last = stamp, state
        elif not over:
            return
        if self._last is None:
            return
        text = description(self._stage, self._last, over)
        shown = Shown("progress", artifacts.key("progress", self._stage), json.dumps(self._last.percent), text)
        self._sender.send(self._posted.update(shown), f"progress of {self._stage} ({id(self)})")

    def _stamp(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino


class _Posted:
    """One artifact of a run: created by the first update that gets through, changed by those after it.

    It is created without Prefect's own `create_artifact`, which also emits an event for every update of every stage from whatever
    thread it is called in.
    """

    def __init__(self, flow_run_id: UUID | None, task_run_id: UUID | None) -> None:
        self._flow_run_id, self._task_run_id = flow_run_id, task_run_id
        self._id: UUID | None = None
        self._tried = False
        self._mark = {"tutelage": uuid4().hex}  # tells this artifact from that of a retry of the same task

    def update(self, shown: Shown) -> Update:
        """What makes the server show this."""
        return lambda client: self._update(client, shown)

    def _update(self, client: SyncPrefectClient, shown: Shown) -> None:
        data = json.loads(shown.data) if shown.kind == "progress" else shown.data
        if self._id is None and self._tried:  # a request without an answer may have been obeyed
            self._id = self._found(client, shown.key)
        self._tried = True
        if self._id is None:
            made = ArtifactCreate(
                key=shown.key,
                type=shown.kind,
                description=shown.description,
                data=data,
                metadata_=self._mark,
                flow_run_id=self._flow_run_id,
                task_run_id=self._task_run_id,
            )
            answer = client.request("POST", "/artifacts/", json=made.model_dump(mode="json", exclude_unset=True))
            self._id = Artifact.model_validate(answer.json()).id
            return
        changed = ArtifactUpdate(data=data, description=shown.description).model_dump(mode="json", exclude_unset=True)
        client.request("PATCH", "/artifacts/{id}", json=changed, path_params={"id": self._id})

    def _found(self, client: SyncPrefectClient, key: str) -> UUID | None:
        """Ours among the newest with this key. The sync client's read_artifacts (prefect 3.8.8) asks what its server refuses."""
        runs = {"flow_run_id": {"any_": [str(self._flow_run_id)]}} if self._flow_run_id else {}
        asked = {"artifacts": {"key": {"any_": [key]}, **runs}, "sort": "CREATED_DESC", "limit": 20}
        answer = client.request("POST", "/artifacts/filter", json=asked)
        newest = Artifact.model_validate_list(answer.json())
        return next((one.id for one in newest if one.metadata_ == self._mark), None)


def run_ids(flow_run_id: UUID | None, task_run_id: UUID | None) -> tuple[UUID | None, UUID | None]:
    """The ids given, else those of the run this is called in."""
    if flow_run_id is not None or task_run_id is not None:
        return flow_run_id, task_run_id
    task, flow = get_task_and_flow_run_ids()
    return flow, task


def _address() -> str | None:
    """The server of this flow run: the setting, else the one its own client talks to (started by Prefect where none is set)."""
    if address := PREFECT_API_URL.value():
        return str(address)
    for context in (SyncClientContext.get(), AsyncClientContext.get()):
        if context is not None:
            return str(context.client.api_url)
    return None
