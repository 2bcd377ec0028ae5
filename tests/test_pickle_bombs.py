"""Pickles that run programs, eat memory or never end, as a CIFAR batch and as a teacher's weights: refused, and nothing runs."""

import builtins
import os
import pickle
import struct
import subprocess
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.lib.core.outcome import Refusal
from stages.lib.ingestion import cifar_batches
from stages.lib.models import tensors

CANARY = "canary-has-flown"
PIXELS = np.zeros((1, 3072), np.uint8)
MOST_BYTES = 64 << 20
MOST_SECONDS = 5.0


class Runs:
    """Calls something when it is unpickled."""

    def __init__(self, called: Any, *arguments: Any) -> None:
        self.reduced = (called, arguments)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.reduced


class Sets(Runs):
    """The same through the state that BUILD gives to it."""

    def __reduce__(self) -> Any:
        return (Runs, (print,), {"x": Runs(os.system, f"touch {CANARY}")})


class Iterates(Runs):
    """The same through the items that APPENDS gives to it."""

    def __reduce__(self) -> Any:
        return (list, (), None, iter([Runs(os.system, f"touch {CANARY}")]))


def in_lists(value: Any, deep: int) -> Any:
    for _ in range(deep):
        value = [value]
    return value


SHELL = f"touch {CANARY}"
VALUES: dict[str, Any] = {
    "os.system": Runs(os.system, SHELL),
    "exec": Runs(builtins.exec, f"open({CANARY!r}, 'w')"),
    "subprocess": Runs(subprocess.check_output, ["touch", CANARY]),
    "deep in lists": in_lists(Runs(os.system, SHELL), 100),
    "in a state": Sets(None),
    "in items": Iterates(None),
}
OPCODES: dict[str, bytes] = {
    "INST": b"(S'touch " + CANARY.encode() + b"'\nios\nsystem\n.",
    "OBJ": b"(cos\nsystem\nS'touch " + CANARY.encode() + b"'\no.",
    "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c" + bytes([len(SHELL)]) + SHELL.encode() + b"\x85R.",
    "a name with dots": b"\x80\x04\x8c\x08builtins\x8c\x0f__import__.x.yz\x93)R.",
    "EXT1": b"\x80\x02\x82\x01.",
    "PERSID": b"Ptouch\n.",
    "BINPERSID": b"\x80\x02U\x01xQ.",
    "bytes of 4 exabytes": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"x.",
    "a frame of 4 exabytes": b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b"N.",
    "a number of 2 GB": b"\x80\x02\x8b" + struct.pack("<i", (1 << 31) - 1) + b"x.",
    "a text of 2 GB": b"\x80\x02X" + struct.pack("<I", (1 << 31) - 1) + b"x.",
    "marks": b"\x80\x02" + b"(" * 40_000 + b".",
    "tuples in tuples": b"\x80\x02)" + b"\x85" * 40_000 + b".",
    "a place of a memo": b"\x80\x02Nr\xff\xff\xff\xff.",
    "a list that holds itself": b"\x80\x02]q\x00h\x00a.",
}


def twice(levels: int) -> bytes:
    """{data, labels: [x]}, where x is a list of the same list twice, `levels` times over: 2^levels words if it is written out."""
    body = b"]q\x000" + b"".join(b"](h%c" % n + b"h%c" % n + b"eq%c" % (n + 1) + b"0" for n in range(levels))
    pixels = pickle.dumps({"data": PIXELS}, 2)[:-1]
    return pixels + b"U\x06labels](" + body + b"h%ce" % levels + b"s."


def as_batch(path: Path) -> None:
    with path.open("rb") as file:
        list(cifar_batches.inner("data_batch_1", file))


def bomb(value: Any, protocol: int) -> bytes:
    return pickle.dumps({"data": PIXELS, "labels": [value], "filenames": [value]}, protocol)


def refused(read: Callable[[Path], object], path: Path, folder: Path) -> None:
    """In little memory and time, by a sentence, and with nothing new in the folder a program would have written to."""
    began = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(Refusal) as caught:
            read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MOST_BYTES and time.process_time() - began < MOST_SECONDS and len(str(caught.value)) < 3000
    assert sorted(folder.iterdir()) == [path]


@pytest.mark.parametrize("protocol", range(6))
def test_bombs__of_every_protocol_are_refused_and_nothing_runs(
    protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for value in VALUES.values():
        path = tmp_path / "w.pth"
        path.write_bytes(bomb(value, protocol))
        for read in (as_batch, tensors.read):
            refused(read, path, tmp_path)


@pytest.mark.parametrize("what", OPCODES)
def test_bombs__of_single_opcodes_are_refused_and_nothing_runs(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "w.pth"
    path.write_bytes(OPCODES[what])
    for read in (as_batch, tensors.read):
        refused(read, path, tmp_path)


def test_bombs__lists_that_are_small_and_endless_when_written_out(tmp_path: Path) -> None:
    """The message of a wrong label wrote it out once."""
    path = tmp_path / "data_batch_1"
    path.write_bytes(twice(60))
    loaded = pickle.loads(twice(3))["labels"]  # the control: it is what it should be
    assert loaded == [[[[[], []], [[], []]], [[[], []], [[], []]]]]
    refused(as_batch, path, tmp_path)


def test_bombs__are_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: Python's own unpickler runs them."""
    monkeypatch.chdir(tmp_path)
    for protocol in range(6):
        for name in ("os.system", "exec", "subprocess", "deep in lists", "in a state", "in items"):
            pickle.loads(bomb(VALUES[name], protocol))
            (tmp_path / CANARY).unlink()
    for name in ("INST", "OBJ", "STACK_GLOBAL"):
        pickle.loads(OPCODES[name])
        (tmp_path / CANARY).unlink()
