"""One at a time for a recipe, over threads, processes and kills."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from flows import recipes


def never() -> bool:
    return False


def test_second_comer__waits_and_is_told_who_holds_it(tmp_path: Path) -> None:
    said: list[str] = []
    order: list[str] = []

    def second() -> None:
        with recipes.turn(tmp_path, "a", "second", said.append, never):
            order.append("second")

    with recipes.turn(tmp_path, "a", "first", said.append, never):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(1.2)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"] and said == ["first"]


def test_another_recipe__does_not_wait(tmp_path: Path) -> None:
    with (
        recipes.turn(tmp_path, "a", "first", pytest.fail, never),
        recipes.turn(tmp_path, "b", "other", pytest.fail, never),
    ):
        pass


def test_stop__ends_the_waiting(tmp_path: Path) -> None:
    with recipes.turn(tmp_path, "a", "first", pytest.fail, never), pytest.raises(recipes.Cancelled, match="second"):
        with recipes.turn(tmp_path, "a", "second", str.strip, lambda: True):
            pytest.fail("it was not its turn")


def test_child_with_the_descriptor__holds_on_when_its_starter_is_killed(tmp_path: Path) -> None:
    """A flow killed outright leaves a stage that is still saving: nobody else may start it until that has gone."""
    starter = f"""
import subprocess, sys, time
from pathlib import Path
from flows import recipes
with recipes.turn(Path({str(tmp_path)!r}), "a", "killed flow", print, lambda: False) as descriptor:
    child = subprocess.Popen(["sleep", "60"], pass_fds=[descriptor])
    print(child.pid, flush=True)
    time.sleep(60)
"""
    flow = subprocess.Popen([sys.executable, "-c", starter], stdout=subprocess.PIPE, text=True)
    assert flow.stdout
    child = int(flow.stdout.readline())
    flow.kill()
    flow.wait()
    try:
        with pytest.raises(recipes.Cancelled):
            with recipes.turn(tmp_path, "a", "next", str.strip, lambda: True):
                pytest.fail("the child still runs")
    finally:
        os.kill(child, signal.SIGKILL)
    said: list[str] = []
    with recipes.turn(tmp_path, "a", "next", said.append, never):
        pass
