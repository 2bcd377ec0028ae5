"""The leash alone, as a program: exit codes, one signal and not two, and nothing passed on that would keep something open."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows import leash
from tests.flows.staged import until


def start(folder: Path, *words: str, stdin: int | None = subprocess.DEVNULL) -> "subprocess.Popen[str]":
    """The leash with these words."""
    command = [sys.executable, leash.__file__, *words]
    environment = {**os.environ, "TUTELAGE_TELL": str(folder)}
    return subprocess.Popen(command, cwd=folder, env=environment, stdin=stdin, stdout=subprocess.PIPE, text=True)


def told(folder: Path) -> dict[str, object]:
    """leash.json."""
    content: dict[str, object] = json.loads((folder / "leash.json").read_text())
    return content


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143), ("sleep 0.5 &", 0)]
)
def test_code__is_the_commands(tmp_path: Path, script: str, code: int) -> None:
    assert start(tmp_path, "--saving", "5", "--", "sh", "-c", script).wait(20) == code
    assert told(tmp_path) == {"code": code, "stopped": None, "killed": False}


NOTES = """
import signal, subprocess, sys, time
def note(signum, _): open(sys.argv[1], "a").write(signal.Signals(signum).name + " ")
for signum in (signal.SIGINT, signal.SIGTERM): signal.signal(signum, note)
if len(sys.argv) > 2: other = subprocess.Popen([sys.executable, "-c", sys.argv[2], "b"])
open(sys.argv[1], "a").close()
end = time.monotonic() + 1.5
while time.monotonic() < end: time.sleep(0.05)
if len(sys.argv) > 2: other.wait()
"""


def test_signals__become_one_interrupt_of_the_group(tmp_path: Path) -> None:
    """Two processes of one group note what they get; three signals to the leash are one SIGINT to each."""
    process = start(tmp_path, "--", sys.executable, "-c", NOTES, "a", NOTES)
    until(lambda: (tmp_path / "a").exists() and (tmp_path / "b").exists())
    for signum in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
        process.send_signal(signum)
        time.sleep(0.1)
    assert process.wait(20) == 0
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text() == "SIGINT "
    assert told(tmp_path)["stopped"] == "signal"


def test_interrupt__reaches_a_command_of_a_leash_that_was_to_ignore_it(tmp_path: Path) -> None:
    """A shell starts what stands before `&` with SIGINT ignored, and that would pass on to every process below."""
    line = f"trap '' INT; exec {sys.executable} {leash.__file__} -- sleep 50"
    process = subprocess.Popen(["sh", "-c", line], cwd=tmp_path)
    until(lambda: len(leash.descendants(process.pid)) == 1)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 128 + signal.SIGINT


def test_alive__the_end_of_stdin_stops_and_is_not_seen_below(tmp_path: Path) -> None:
    process = start(tmp_path, "--alive", "--", "sleep", "50", stdin=subprocess.PIPE)
    until(lambda: len(leash.descendants(process.pid)) == 1)
    (sleeper,) = leash.descendants(process.pid)
    assert os.readlink(f"/proc/{sleeper}/fd/0") == "/dev/null" and len(os.listdir(f"/proc/{sleeper}/fd")) == 3
    assert process.poll() is None and process.stdin is not None
    process.stdin.close()
    assert process.wait(20) == 128 + signal.SIGINT
    assert told(tmp_path)["stopped"] == "parent"


def test_output__is_read_away_when_nobody_else_does(tmp_path: Path) -> None:
    """Who says more than a pipe holds while it saves neither waits for ever nor meets a broken pipe."""
    output, mouth = os.pipe()
    script = "trap 'seq 100000 && touch saved; exit' INT; touch ready; while :; do sleep 0.05; done"
    process = subprocess.Popen(
        [sys.executable, leash.__file__, "--alive", "--output", str(output), "--", "sh", "-c", script],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=mouth,
        pass_fds=(output,),
    )
    os.close(mouth)
    os.close(output)
    until((tmp_path / "ready").exists)
    assert process.stdin is not None
    process.stdin.close()
    process.wait(20)
    assert (tmp_path / "saved").exists()
