"""No two hold a device, whoever they are, and none is lost with a process that was killed."""

import itertools
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from flows import devices
from flows.child import Child
from flows.devices import DeviceError, GivenUp, Held, hold
from tests.flows.staged import ROOT, until


@pytest.fixture(autouse=True)
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host of this test alone, with four GPUs."""
    monkeypatch.setenv(devices.LOCKS, str(tmp_path / "locks"))
    monkeypatch.setenv(devices.DEVICES, "0,1,2,3")
    monkeypatch.setattr(devices, "POLL_SECONDS", 0.02)
    return tmp_path / "locks"


def nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A machine whose nvidia-smi does this."""
    monkeypatch.delenv(devices.DEVICES, raising=False)
    monkeypatch.delenv(devices.VISIBLE, raising=False)
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


# --- what a host has


@pytest.mark.parametrize(
    ("said", "names", "gpus"),
    [
        ("0,1,3", ("0", "1", "3"), True),
        ("GPU-5ebe, MIG-7/1", ("GPU-5ebe", "MIG-7/1"), True),
        ("cpu:3", ("cpu0", "cpu1", "cpu2"), False),
    ],
)
def test_of_host__as_it_was_said(
    monkeypatch: pytest.MonkeyPatch, said: str, names: tuple[str, ...], gpus: bool
) -> None:
    monkeypatch.setenv(devices.DEVICES, said)
    assert devices.of_host() == devices.Host(names, gpus)


@pytest.mark.parametrize("said", ["", "0,,1", "0,0", "cpu", "cpu:0", "cpu:2,0", "0 1"])
def test_of_host__refuses_what_it_cannot_read(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setenv(devices.DEVICES, said)
    with pytest.raises(DeviceError, match=r"\$TUTELAGE_DEVICES is .*allowed"):
        devices.of_host()


@pytest.mark.parametrize(
    ("visible", "names"), [("2,3", ("2", "3")), ("1,-1,2", ("1",)), ("", ("cpu0", "cpu1")), ("-1", ("cpu0", "cpu1"))]
)
def test_of_host__what_cuda_may_see(monkeypatch: pytest.MonkeyPatch, visible: str, names: tuple[str, ...]) -> None:
    monkeypatch.delenv(devices.DEVICES)
    monkeypatch.setenv(devices.VISIBLE, visible)
    assert devices.of_host().names == names


def test_of_host__asks_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(tmp_path, monkeypatch, "echo 0; echo 1")
    assert devices.of_host() == devices.Host(("0", "1"), True)


def test_of_host__a_driver_in_trouble_is_not_a_machine_without_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvidia_smi(tmp_path, monkeypatch, "echo 'NVIDIA-SMI has failed'; exit 9")
    with pytest.raises(DeviceError, match=r"ended with 9: NVIDIA-SMI has failed.*cpu:2"):
        devices.of_host()
    monkeypatch.setattr(devices, "ASKING_SECONDS", 0.2)
    nvidia_smi(tmp_path, monkeypatch, "exec sleep 20")
    with pytest.raises(DeviceError, match="timed out"):
        devices.of_host()


def test_of_host__without_gpus_there_are_two_slots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(devices.DEVICES)
    monkeypatch.delenv(devices.VISIBLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert devices.of_host() == devices.Host(("cpu0", "cpu1"), False)


# --- holding


def test_hold__different_devices_until_none_is_left() -> None:
    with hold(1, "a") as one, hold(2, "b") as two:
        assert one.names == ("0",) and two.names == ("1", "2")
        assert two.variables[devices.VISIBLE] == "1,2"
        with pytest.raises(GivenUp), hold(2, "c", cancelled=lambda: True):
            pass
        with hold(1, "d") as last:  # the two above took nothing while they waited
            assert last.names == ("3",)
    with hold(0, "all") as everything:
        assert everything.names == ("0", "1", "2", "3")


def test_hold__says_once_who_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(devices.DEVICES, "0,1")
    said: list[str] = []
    looks = iter([False, False, False, True])
    with hold(1, "teacher"), pytest.raises(GivenUp), hold(2, "pretrain", said.append, lambda: next(looks)):
        pass
    assert len(said) == 1
    assert f"pretrain waits for 2 GPUs of 2: 0 is held by teacher (process {os.getpid()})" in said[0]


def test_hold__refuses_more_than_there_are() -> None:
    with pytest.raises(DeviceError, match=r"5 GPUs are needed and this host has 4 \(0, 1, 2, 3\)"), hold(5, "a"):
        pass


@pytest.mark.parametrize("count", [0, 1, 8])
def test_hold__without_gpus_it_is_one_slot_that_sees_none(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setenv(devices.DEVICES, "cpu:2")
    with hold(count, "a") as one, hold(count, "b") as two:
        assert (one.names, two.names) == (("cpu0",), ("cpu1",)) and one.variables == {devices.VISIBLE: ""}
        with pytest.raises(GivenUp), hold(count, "c", cancelled=lambda: True):
            pass


def contend(log: str, rounds: int) -> None:
    """A process that takes one or two of the devices again and again, and writes down when it had which."""
    for number in range(rounds):
        with hold(1 + number % 2, "x") as held:
            since = time.monotonic_ns()
            time.sleep(0.002)
            until_then = time.monotonic_ns()
            with open(log, "a") as file:
                file.write("".join(f"{name} {since} {until_then}\n" for name in held.names))


def test_hold__processes_and_threads_never_share_one(tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    open(log, "w").close()
    context = multiprocessing.get_context("spawn")
    workers: list[threading.Thread | multiprocessing.process.BaseProcess] = [
        context.Process(target=contend, args=(log, 20)) for _ in range(3)
    ]
    workers += [threading.Thread(target=contend, args=(log, 20)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    spans: dict[str, list[tuple[int, int]]] = {}
    for line in Path(log).read_text().splitlines():
        name, since, end = line.split()
        spans.setdefault(name, []).append((int(since), int(end)))
    assert sum(map(len, spans.values())) == 6 * 30
    for held in spans.values():
        held.sort()
        assert all(end <= since for (_, end), (since, _) in itertools.pairwise(held))


HOLDER = """
import sys
from pathlib import Path
from flows.child import Child
from flows.devices import hold
folder = Path(sys.argv[1])
program = "import signal, time; signal.signal(signal.SIGINT, lambda *_: None); open('pid', 'w').close(); time.sleep(2)"
with hold(4, "teacher") as held:
    Child([sys.executable, "-c", program], folder, folder / "told", descriptors=held.descriptors).run()
"""


def test_hold__a_flow_that_is_killed_keeps_its_devices_until_its_stage_has_gone(tmp_path: Path) -> None:
    """The stage here takes 2 s to leave: in that time the devices are not free, afterwards they are."""
    flow = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], cwd=ROOT)
    until((tmp_path / "pid").exists)
    flow.send_signal(signal.SIGKILL)
    flow.wait()
    said: list[str] = []
    with hold(1, "next", said.append):
        assert said and f"teacher (process {flow.pid})" in said[0]
        assert (tmp_path / "told/leash.json").exists()


def test_hold__is_over_with_its_thread_when_nothing_was_started() -> None:
    def take() -> None:
        with hold(4, "thread"):
            pass

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    with hold(4, "next"):
        pass


def test_child__sees_its_devices_alone(tmp_path: Path) -> None:
    said: list[str] = []
    program = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'], sorted(map(int, os.listdir('/proc/self/fd')))[3:])"

    def run(held: Held) -> None:
        command = [sys.executable, "-c", program]
        child = Child(command, tmp_path, tmp_path / "told", said.append, held.variables, held.descriptors)
        assert child.run().code == 0

    with hold(1, "a"), hold(2, "b") as held:
        run(held)
    assert said == ["1,2 [3]"]  # 3 is the listing itself: the stage has no lock it could keep too long, the leash has
