"""Starts the processes that train together, starts them again when one dies, and says how they ended.

A stage's `cmd` never changes: `python -m stages.pretrain imagenet` looks what the machine has (`system.ranks`) and, for more than
one, runs torchrun's elastic launcher with itself as the worker. One process needs no launcher. Several machines: the same command
on each, with torchrun's own variables (PET_NNODES, PET_RDZV_ENDPOINT, ...); under somebody else's torchrun it is a worker at once.

A worker leaves with 0 whenever starting it again would be wrong: finished, asked to stop, refused. It writes how into a file that
the launcher reads, and tells the others, who may be waiting for it. Anything else is a death, and the launcher then ends all
workers and starts them again from the last checkpoint.
"""

import contextlib
import dataclasses
import datetime
import json
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn, Self, cast

from stages.lib.core import load, outcome, ranks
from stages.lib.core.outcome import Ending, Refusal
from stages.lib.core.signals import Stopped, end_with_parent, outlive_parent
from stages.lib.params.credentials import say
from stages.lib.params.system import System

if TYPE_CHECKING:
    import torch
    import torch.distributed as dist

log = logging.getLogger(__name__)
LOOPBACK = "127.0.0.1"
ENDINGS = "TUTELAGE_ENDINGS"
"""Folder in which the workers of a launcher say how they ended."""
SAVING = 45
"""Seconds that the others get to leave once a worker has died; then they are killed."""
ENDED = "ended"
POLL = 2.0
GRACE = 5.0
"""Seconds after another's end in which a worker should notice by itself; one that hangs in a collective never does."""


def run(
    stage: str,
    main: Callable[[], None],
    before: Callable[[], None] = lambda: None,
    groups: Callable[[], int] = lambda: 0,
) -> NoReturn:
    """Run a stage's main() in as many processes as `system` and the machine say, and leave as outcome.run does.

    before: called once on this machine first, while there is one process. groups: parts of a batch that must stay whole, so that
    no process is started that would have none; 0: any number of processes will do.
    """
    if "RANK" in os.environ:
        _work(main)
    outcome.run(stage, lambda: _lead(main, before, groups))


def wanted(system: System, groups: int) -> int:
    """Processes of this machine that train together: system.ranks, else as many of its GPUs as a batch's groups divide over.

    Raises Refusal where there are fewer GPUs than processes.
    """
    import torch

    gpus = torch.cuda.device_count() if system.device != "cpu" else 0
    if system.ranks > gpus and (gpus or system.device == "cuda"):
        raise Refusal(
            f"system.ranks {system.ranks} needs a GPU for each, and {gpus} are visible; take {gpus} or fewer, or 0 for all."
        )
    if system.ranks:
        return system.ranks
    most = max(count for count in range(1, max(gpus, 1) + 1) if groups % count == 0)
    if most < gpus:
        log.info(
            "%d of %d GPUs are used: a batch is %d groups that stay whole (mix_group, norm_group)", most, gpus, groups
        )
    return most


def several_machines() -> bool:
    """Whether torchrun's variables name others."""
    return os.environ.get("PET_NNODES", "1") not in ("", "1", "1:1")


def _lead(main: Callable[[], None], before: Callable[[], None], groups: Callable[[], int]) -> None:
    """Do it here, or start workers and wait for them. Raises what their ending says."""
    system = load.load("system", System)
    before()
    count = wanted(system, groups())
    if count == 1 and not several_machines():
        main()
        return
    with tempfile.TemporaryDirectory() as endings:
        os.environ[ENDINGS] = endings
        died = _launch(count, system.max_restarts, Path(endings))
        found = [Ending(**json.loads(path.read_text())) for path in sorted(Path(endings).glob("*.json"))]
    _conclude(died, found)


def _launch(count: int, max_restarts: int, folder: Path) -> str:
    """Run this very command in `count` processes until all have left; empty, or what the last attempt died of.

    folder: nobody else's. On one machine the launcher's store is a file in it: torch's server listens on every interface of the
    machine, and what it is told is unpickled.
    """
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    spec = sys.modules["__main__"].__spec__
    assert spec is not None, "a stage is run as `python -m stages.<name>`"
    alone = ["--rdzv-backend=c10d", f"--rdzv-endpoint={folder / 'store'}", "--rdzv-conf=store_type=file"]
    alone += [f"--rdzv-id={os.getpid()}", f"--local-addr={LOOPBACK}"]
    where = [] if several_machines() else alone
    words = [*where, f"--nproc-per-node={count}", f"--max-restarts={max_restarts}", f"--shutdown-timeout={SAVING}"]
    # Signals are passed on by us: the launcher's own way gives workers a fixed time, and a checkpoint may need longer.
    words += ["--signals-to-handle=SIGUSR2", "-m", spec.name, *sys.argv[1:]]
    # A store for each attempt: in one that is kept, processes started again find the addresses of those that died, and hang.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    if not several_machines():
        for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.setdefault(variable, "lo")
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # else torchrun sets it, with a warning; workers take system.threads
    config, command, arguments = torchrun.config_from_args(torchrun.parse_args(words))
    log.info("%d processes on this machine train together", count)
    with _Relay() as relay:
        try:
            elastic_launch(config, command)(*arguments)
        except ChildFailedError as error:
            if relay.signum is not None:
                raise Stopped(relay.signum) from None
            killed = [(rank, one) for rank, one in error.failures.items() if one.exitcode < 0]
            rank, failure = killed[0] if killed else error.get_first_failure()  # others only fell over its silence
            how = f"signal {failure.signal_name()}" if failure.exitcode < 0 else f"exit code {failure.exitcode}"
            return f"process {rank} died of {how}"
    return ""


class _Relay:
    """Within it SIGTERM and SIGINT go to every worker, who then saves and leaves; torchrun starts them in sessions of their own."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self.told: set[int] = set()

    def __enter__(self) -> Self:
        end_with_parent()
        self.before = {signum: signal.signal(signum, self._pass_on) for signum in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        for signum, handler in self.before.items():
            signal.signal(signum, handler)

    def _pass_on(self, signum: int, _frame: FrameType | None) -> None:
        outlive_parent()
        first, self.signum, self.told = self.signum is None, signum, set()
        if not _children():
            raise Stopped(signum)
        self._tell()
        if first:
            threading.Thread(target=self._keep_telling, daemon=True).start()

    def _keep_telling(self) -> None:
        """One that was only just starting dies of the signal and is started again: it is told as well."""
        while True:
            time.sleep(0.5)
            self._tell()

    def _tell(self) -> None:
        for child in set(_children()) - self.told:
            self.told.add(child)
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, cast(int, self.signum))


def _children() -> list[int]:
    """Processes this one has started and that have not been waited for."""
    return [int(child) for path in Path("/proc/self/task").glob("*/children") for child in path.read_text().split()]


def _conclude(died: str, endings: list[Ending]) -> None:
    """Return if all is done. Raises Refusal, Stopped, or RuntimeError for a death that restarts did not mend."""
    for ending in endings:
        if ending.code == 2:
            raise Refusal(ending.reason)
    for ending in endings:
        if ending.code > 128:
            raise Stopped(ending.code - 128)
    if died:
        raise RuntimeError(f"{died}, and so did it whenever it was started again. The log above says more.")


def _work(main: Callable[[], None]) -> NoReturn:
    """Be one of several processes: meet the others, work, say how it ended."""

    from stages.lib.training import processes

    level = logging.INFO if ranks.first() else logging.WARNING
    say(level)
    logging.getLogger("timm").setLevel(logging.WARNING)
    system = load.load("system", System)
    patience = datetime.timedelta(seconds=system.collective_seconds)
    store = _store(patience)
    threading.Thread(target=_leave_with_the_others, args=(store,), daemon=True).start()
    try:
        processes.join(store, _device(system), patience)
        main()
        ending = outcome.FINISHED
    except BaseException as error:
        ending = _told(store) or outcome.ending_of(error)
        if ending.code == 1:
            log.exception("process %d failed", ranks.current().index)
    if ending.code > 1:
        _tell(store, ending)
    _leave(ending)


def _store(patience: datetime.timedelta) -> "dist.Store":
    """What all processes meet in, kept by the first. On one machine it listens on loopback alone; torch's would to everybody."""
    import torch.distributed as dist

    if ENDINGS not in os.environ or several_machines():
        return cast("dist.Store", next(dist.rendezvous("env://", timeout=patience))[0])
    rank, port = ranks.current(), int(os.environ["MASTER_PORT"])
    if not rank.index:
        listener = socket.create_server((LOOPBACK, port), backlog=rank.world + 8)
        return dist.TCPStore(
            LOOPBACK, port, rank.world, True, patience, wait_for_workers=False, master_listen_fd=listener.detach()
        )
    return dist.TCPStore(LOOPBACK, port, rank.world, False, patience, wait_for_workers=False)


def _tell(store: "dist.Store", ending: Ending) -> None:
    """Let the others know. The first process keeps the store, so it stays until they have heard, or for a while."""
    rank = ranks.current()
    with contextlib.suppress(Exception):  # the first has gone, so all know
        store.set(ENDED, json.dumps(dataclasses.asdict(ending)))
        store.set(f"left/{rank.index}", "")
        if ranks.first():
            store.wait([f"left/{other}" for other in range(rank.world)], datetime.timedelta(seconds=GRACE + 2 * POLL))


def _device(system: System) -> "torch.device":
    """Where this process computes: the GPU of its number, or the CPU."""
    import torch

    if system.device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", ranks.local().index)
    torch.cuda.set_device(device)
    return device


def _leave(ending: Ending) -> NoReturn:
    """Write down how it ended and go, without waiting for torch's threads, which may hang."""
    if ending.code != 1 and ENDINGS in os.environ:
        path = Path(os.environ[ENDINGS]) / f"{ranks.current().index}.json"
        path.write_text(json.dumps(dataclasses.asdict(ending)))
    elif ending.code > 1:
        log.error("%s", ending.reason)
    if ENDINGS not in os.environ and ranks.first():  # else our launcher says it
        outcome.tell_ending(ending)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(1 if ending.code == 1 else 0)


def _told(store: "dist.Store") -> Ending | None:
    """How another process ended that will not come back, if one did."""
    try:
        return Ending(**json.loads(store.get(ENDED))) if store.check([ENDED]) else None
    except Exception:  # the first process, which keeps the store, is gone
        return None


def _leave_with_the_others(store: "dist.Store") -> None:
    """In a thread: when another has refused or stopped and this process hangs waiting for it, leave as well."""
    while not (ending := _told(store)):
        time.sleep(POLL)
    time.sleep(GRACE)
    _tell(store, ending)
    _leave(ending)
