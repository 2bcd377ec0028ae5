"""Fuzzes a reader for some minutes, in a child process that may die: `python -m tests.fuzz tar --minutes 10`.

What made a reader fail is kept under --keep with its number in the series; one that is moved, gzipped, to
tests/fuzz/found/<target> is read by every later test run. Exit code 1 where anything but a good read or a Refusal came out.
"""

import argparse
import importlib
import itertools
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz import attempts
from tests.fuzz.mutation import mutated
from tests.fuzz.target import Target

TARGETS = ("tar", "tables", "plain_pickles", "params_files", "weights", "hub_tables")
"""Modules of tests.fuzz with a `target()`."""
SILENT_SECONDS = 60.0  # wall clock; a child that says nothing for so long hangs where no signal reaches it
MOST_A_WORD = 20_000  # inputs between two words of a child
ENDLESS = 1 << 62


@dataclass
class Found:
    """What came of a series so far."""

    inputs: int = 0
    read: int = 0
    refused: int = 0
    words: int = 0
    slowest: tuple[float, int] = (0.0, 0)
    grew: int = 0
    peak: int = 0
    defects: Counter[str] = field(default_factory=Counter)
    examples: dict[str, tuple[int, str]] = field(default_factory=dict)


@dataclass
class Heard:
    """What one child has said."""

    number: int
    """Of the last input that it surely finished."""
    at: float = field(default_factory=time.monotonic)
    ready: bool = False
    counts: dict[str, int] = field(default_factory=lambda: {"read": 0, "refused": 0})
    errors: list[str] = field(default_factory=list)


def target_of(name: str, folder: Path) -> Target:
    """The target that a module of tests.fuzz describes; folder: for the files that it reads beside the one under test."""
    made: Target = importlib.import_module(f"tests.fuzz.{name}").target(folder)
    return made


def input_of(name: str, seed: int, numbers: Iterable[int]) -> Iterator[bytes]:
    """The inputs of these numbers again."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        target = target_of(name, Path(folder))
        for number in numbers:
            yield mutated(number, seed, target.good, target.tokens, target.changes)


def fuzz(name: str, seed: int, inputs: int, seconds: float) -> Found:
    """Read up to so many inputs for up to so long; a child that dies or hangs is one more defect, and the next one goes on."""
    found, first, end = Found(), 0, time.monotonic() + seconds
    while first < inputs and time.monotonic() < end:
        first = _with_child(name, seed, first, inputs - 1, end, found)
    return found


def _with_child(name: str, seed: int, first: int, last: int, end: float, found: Found) -> int:
    """One child's life; the number to go on with."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        command = [
            sys.executable,
            "-m",
            "tests.fuzz",
            name,
            "--child",
            str(first),
            str(last),
            folder,
            "--seed",
            str(seed),
        ]
        heard = Heard(first - 1)
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
        ) as child:
            threads = [
                threading.Thread(target=_hear, args=(child, heard, found), daemon=True),
                threading.Thread(target=lambda: heard.errors.extend(child.stderr or ()), daemon=True),
            ]
            for thread in threads:
                thread.start()
            while child.poll() is None and time.monotonic() < end and time.monotonic() - heard.at < SILENT_SECONDS:
                time.sleep(0.05)
            late, hung = time.monotonic() >= end, child.poll() is None
            child.kill()
            child.wait()
            for thread in threads:
                thread.join()
        found.inputs += heard.number - first + 1
        found.read, found.refused = found.read + heard.counts["read"], found.refused + heard.counts["refused"]
        if child.returncode == 0 or (late and hung):
            return heard.number + 1
        if not heard.ready:
            raise RuntimeError(
                f"the child of {name} ended with {child.returncode} before its first input:\n{''.join(heard.errors)}"
            )
        how = "it hung" if hung else f"the process ended with {child.returncode}"
        number = _number_of((Path(folder) / "input").read_bytes(), name, seed, heard.number + 1)
    found.defects[how] += 1
    found.examples.setdefault(how, (number, "".join(heard.errors)[-3000:]))
    found.inputs += number - heard.number
    return number + 1


def _hear(child: "subprocess.Popen[str]", heard: Heard, found: Found) -> None:
    """Take in what the child says."""
    assert child.stdout is not None
    for line in child.stdout:
        said = json.loads(line)
        heard.at, heard.ready = time.monotonic(), True
        if "defect" in said:
            found.defects[said["defect"]] += 1
            found.examples.setdefault(said["defect"], (said["number"], said["said"]))
        elif "counts" in said:
            heard.number, heard.counts = said["number"], said["counts"]
            found.slowest = max(found.slowest, tuple(said["slowest"]))
            found.grew, found.peak = max(found.grew, said["grew"]), max(found.peak, said["peak"])
            found.words = max(found.words, said["words"])


def _number_of(data: bytes, name: str, seed: int, first: int) -> int:
    """Which input this is, from `first` on. A child that died between two has nearly written the next one: then that one."""
    for number, one in zip(
        range(first, first + MOST_A_WORD), input_of(name, seed, itertools.count(first)), strict=False
    ):
        if one == data:
            return number
    return first


def told(name: str, found: Found, seconds: float) -> str:
    """The figures in words."""
    lines = [
        f"{name}: {found.inputs:,} inputs in {seconds:,.0f} s; {found.read:,} read, {found.refused:,} refused in "
        f"{found.words} ways; "
        f"slowest {found.slowest[0]:.2f} s (input {found.slowest[1]}); peak memory {found.peak / 1e6:,.0f} MB, "
        f"{found.grew / 1e6:,.0f} MB above that of good files; {len(found.defects)} kinds of defect"
    ]
    for how, times in found.defects.most_common():
        number, said = found.examples[how]
        lines += [f"  {times} x {how}, first input {number}", *(f"    {line}" for line in said.splitlines()[-8:])]
    return "\n".join(lines)


def main() -> int:
    """Parse the command line and run; the exit code."""
    parser = argparse.ArgumentParser(description="Reads damaged files until the time is up.")
    parser.add_argument("target", help=f"{', '.join(TARGETS)}; or all")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--inputs", type=int, default=ENDLESS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("data/runs/fuzz"), help="folder of the inputs that failed")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        first, last, folder = chosen.child
        beside = Path(folder) / "beside"
        beside.mkdir()
        attempts.child(target_of(chosen.target, beside), chosen.seed, int(first), int(last), Path(folder))
        return 0
    failed = False
    for name in TARGETS if chosen.target == "all" else (chosen.target,):
        began = time.monotonic()
        found = fuzz(name, chosen.seed, chosen.inputs, 60 * chosen.minutes)
        sys.stdout.write(told(name, found, time.monotonic() - began) + "\n")
        numbers = [number for number, _ in found.examples.values()]
        for number, data in zip(numbers, input_of(name, chosen.seed, numbers), strict=True):
            chosen.keep.mkdir(parents=True, exist_ok=True)
            (chosen.keep / f"{name}-{chosen.seed}-{number}").write_bytes(data)
        failed = failed or bool(found.defects)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
