"""GPU slots of one host: no two stages share a device, whichever flow, experiment or clone they come from.

A device is a file in one folder of the host, and holding it is a lock (flock) on that file, which the kernel drops when the last
process that has it open is gone. flows/child.py passes the open files on to the leash, so a device is free when the last process
of its stage has gone, not when the thread that asked for it ends or the flow is killed. Prefect's concurrency limits are not
used: they are the server's, not a host's, and its slots leak when the server restarts. The kernel's locks cannot leak.

Which devices a host has: $TUTELAGE_DEVICES ("0,1,3" or names of CUDA; "cpu:2" are two slots without a GPU), else
$CUDA_VISIBLE_DEVICES, else what nvidia-smi lists, else cpu:2, so that a teacher and a masked autoencoder train beside each other.
The folder of the locks: $TUTELAGE_DEVICE_LOCKS, else one of this user's; users who share GPUs set it to one folder for all.
"""

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

DEVICES, LOCKS, VISIBLE = "TUTELAGE_DEVICES", "TUTELAGE_DEVICE_LOCKS", "CUDA_VISIBLE_DEVICES"
NO_GPU = {VISIBLE: ""}
"""Variables for a process that needs no GPU: it sees none, so that it cannot take memory of one."""
CPU_SLOTS = 2
POLL_SECONDS = 1.0
ASKING_SECONDS = 30.0


class DeviceError(Exception):
    """The host has not what was asked for, or what it has cannot be found out. The message says what to do."""


class GivenUp(Exception):
    """`cancelled` said so while waiting."""


@dataclass(frozen=True)
class Host:
    """The devices of this machine."""

    names: tuple[str, ...]
    gpus: bool
    """False: slots of a machine without one, of which every stage takes exactly one."""


@dataclass(frozen=True)
class Held:
    """Devices that are this stage's alone while `descriptors` are open anywhere."""

    names: tuple[str, ...]
    variables: dict[str, str]
    """For the stage's environment: CUDA_VISIBLE_DEVICES."""
    descriptors: tuple[int, ...]
    """For Child(descriptors=...)."""


def of_host() -> Host:
    """What this machine has. Raises DeviceError where that is not clear: training on a processor by mistake takes weeks."""
    if (said := os.environ.get(DEVICES)) is not None:
        return _parse(said)
    if (visible := os.environ.get(VISIBLE)) is not None:
        names = tuple(name.strip() for name in visible.split(",") if name.strip())
        seen = names[: names.index("-1")] if "-1" in names else names  # CUDA stops reading there
        return Host(seen, gpus=True) if seen else _without_gpu(CPU_SLOTS)
    return _listed() if shutil.which("nvidia-smi") else _without_gpu(CPU_SLOTS)


@contextlib.contextmanager
def hold(
    count: int,
    who: str,
    on_wait: Callable[[str], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[Held]:
    """Hold `count` devices, all or none; waits until they are free. 0: all of the host. Without GPUs it is always one slot.

    who: the stage, for others who wait. on_wait: gets one sentence, once, if waiting is necessary. cancelled: asked every second.
    Raises DeviceError where the host has fewer, GivenUp when cancelled.
    """
    host = of_host()
    wanted = _wanted(count, host)
    descriptors, said = _take(host, wanted, who), False
    while not descriptors:
        if cancelled():
            raise GivenUp(f"{who} no longer waits for {_counted(wanted, host)}")
        if not said:
            on_wait(f"{who} waits for {_counted(wanted, host)}: {'; '.join(_holders(host)) or 'somebody was quicker'}")
            said = True
        time.sleep(POLL_SECONDS)
        descriptors = _take(host, wanted, who)
    try:
        names = tuple(descriptors)
        yield Held(names, _variables(names, host), tuple(descriptors.values()))
    finally:
        for descriptor in descriptors.values():
            os.close(descriptor)


def folder() -> Path:
    """Where the locks are: the same for all clones of this host. Files there must never be removed while stages run."""
    if os.environ.get(LOCKS):
        return Path(os.environ[LOCKS])
    common = Path("/run/lock")
    place = common if os.access(common, os.W_OK) else Path(tempfile.gettempdir())
    return place / f"tutelage-devices-{os.getuid()}"


def _parse(said: str) -> Host:
    """$TUTELAGE_DEVICES."""
    if found := re.fullmatch(r"cpu:([1-9]\d*)", said.strip()):
        return _without_gpu(int(found[1]))
    names = tuple(name.strip() for name in said.split(","))
    if not all(re.fullmatch(r"[\w.:/-]+", name) for name in names) or len(set(names)) < len(names) or "cpu" in said:
        raise DeviceError(
            f'${DEVICES} is {said!r}; allowed are different GPUs, "0,1,3", or slots without one, "cpu:2". Unset it to use all.'
        )
    return Host(names, gpus=True)


def _without_gpu(slots: int) -> Host:
    return Host(tuple(f"cpu{number}" for number in range(slots)), gpus=False)


def _listed() -> Host:
    """What nvidia-smi says."""
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ASKING_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DeviceError(f"{error}. Mend the driver, or say which GPUs there are: ${DEVICES}=0,1 or cpu:2.") from None
    names = tuple(done.stdout.split())
    if done.returncode or not all(name.isdecimal() for name in names):
        words = (done.stdout + done.stderr).strip()
        raise DeviceError(
            f"nvidia-smi ended with {done.returncode}: {words}. Mend the driver, or say what there is: ${DEVICES}=0,1 or cpu:2."
        )
    return Host(names, gpus=True) if names else _without_gpu(CPU_SLOTS)


def _wanted(count: int, host: Host) -> int:
    """How many to take."""
    if not host.gpus:
        return 1
    if count > len(host.names):
        raise DeviceError(
            f"{count} GPUs are needed and this host has {len(host.names)} ({', '.join(host.names)}). Take fewer "
            f"(meta.gpu in dvc.yaml, system.ranks) or a host that has more, or say which there are: ${DEVICES}."
        )
    return count or len(host.names)


def _variables(names: tuple[str, ...], host: Host) -> dict[str, str]:
    """What makes CUDA see these alone; without GPUs none, also where the host has some. Numbers are those of nvidia-smi."""
    if not host.gpus:
        return NO_GPU
    order = {} if "CUDA_DEVICE_ORDER" in os.environ else {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    return {VISIBLE: ",".join(names), **order}


@contextlib.contextmanager
def _choosing() -> Iterator[None]:
    """One at a time looks at the locks, so that two never hold half of what each of them needs."""
    folder().mkdir(parents=True, exist_ok=True)
    with (folder() / "choosing").open("a") as master:
        fcntl.flock(master, fcntl.LOCK_EX)
        yield


def _take(host: Host, count: int, who: str) -> dict[str, int]:
    """Name -> open and locked file, of `count` devices; empty if fewer are free."""
    taken: dict[str, int] = {}
    with contextlib.ExitStack() as undo, _choosing():
        for name in host.names:
            if len(taken) < count and (descriptor := _lock(_path(name), who)) is not None:
                taken[name] = descriptor
                undo.callback(os.close, descriptor)
        if len(taken) < count:
            return {}
        undo.pop_all()
    return taken


def _lock(path: Path, who: str) -> int | None:
    """The open file, if nobody holds it; says in it who does."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    with contextlib.suppress(OSError):  # a full disk is no reason not to lock
        os.truncate(descriptor, 0)
        os.write(descriptor, f"{who} (process {os.getpid()})".encode())
    return descriptor


def _path(name: str) -> Path:
    return folder() / f"{name.replace('/', '_')}.lock"


def _holders(host: Host) -> list[str]:
    """Who has what, as it is known."""
    found = []
    with _choosing():
        for name in host.names:
            with contextlib.suppress(OSError), _path(name).open() as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    found.append(f"{name} is held by {file.read() or 'somebody'}")
    return found


def _counted(count: int, host: Host) -> str:
    what = "GPU" if host.gpus else "slot"
    return f"{count} {what}{'s' if count > 1 else ''} of {len(host.names)}"
