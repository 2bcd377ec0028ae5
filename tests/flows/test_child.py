"""A command is started, heard, and stopped surely: real processes, real DVC, real signals.

Each drill ends with nobody left and the same command starting again at once, which its lease would refuse if somebody were.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flows import child, execution, leash
from flows.child import Child, Ending
from tests.flows.staged import (
    REPRO,
    ROOT,
    STAND_IN,
    kill,
    left,
    repository,
    staged,
    template,
    until,
    variables,
    working,
)

__all__ = ["repository", "template"]
SHELLS = pytest.mark.parametrize(
    "shell",
    [
        pytest.param(name, marks=pytest.mark.skipif(not Path(name).exists(), reason=f"no {name}"))
        for name in ("/bin/bash", "/bin/dash")
    ],
)
"""DVC starts a stage by $SHELL: bash becomes the stage, dash waits for it."""


@pytest.fixture(autouse=True)
def opened() -> Iterator[None]:
    """A drill of stop_all leaves the door closed."""
    child.open_again()
    yield
    child.stop_all("the test is over")
    child.open_again()


def python(folder: Path, text: str, **options: object) -> Ending:
    """Run a few lines of Python as a child."""
    return Child([sys.executable, "-c", text], folder, folder / "told", **options).run()  # type: ignore[arg-type]


class Thread:
    """Child.run() as a task does it."""

    def __init__(self, one: Child) -> None:
        self.child, self.found = one, ThreadPoolExecutor(1).submit(one.run)

    def ending(self) -> Ending:
        return self.found.result(60)


def goes_on(folder: Path) -> None:
    """Nobody is left, a checkpoint is there, and the next start continues from it and is not refused."""
    assert not left(folder)
    step = int((folder / "checkpoint").read_text())
    said: list[str] = []
    ending = staged(folder, STAND_IN, said, STEPS=step + 2).run()
    assert ending.code == 0, ending
    assert f"working from step {step}" in said and (folder / "out").read_text() == "done"


# --- hearing


def test_run__lines_arrive_in_order_and_the_end_is_known(tmp_path: Path) -> None:
    said: list[str] = []
    ending = python(
        tmp_path, "import sys; print('one'); sys.stderr.write('two\\n'); print('three', end='')", on_line=said.append
    )
    assert said == ["one", "two", "three"]
    assert (ending.code, ending.reason, ending.retryable, ending.stopped) == (0, "finished", False, False)


def test_run__whoever_listens_slowly_or_fails_stalls_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """300 000 lines while nobody takes one; afterwards it is said how many are missing."""
    monkeypatch.setattr("flows.lines.WAITING", 1000)
    monkeypatch.setattr("flows.child.HANDING_ON_SECONDS", 20.0)
    door, said = threading.Event(), []

    def slow(line: str) -> None:
        if not said:
            door.wait(20)
        said.append(line)

    text = "import sys; sys.stdout.write('x\\n' * 300_000); open('done', 'w').close()"
    one = Thread(Child([sys.executable, "-c", text], tmp_path, tmp_path / "told", slow))
    until((tmp_path / "done").exists)  # with the door still closed
    door.set()
    assert one.ending().code == 0
    missing = [line for line in said if "left out" in line]
    assert missing and sum(int(line.split()[1]) for line in missing) + len(said) - len(missing) == 300_000

    def failing(_: str) -> None:
        raise ConnectionError("the server is away")

    assert python(tmp_path, "print('one')", on_line=failing).code == 0


def test_run__no_line_is_too_long_overwritten_or_strange(tmp_path: Path) -> None:
    said: list[str] = []
    text = (
        "import sys; w = sys.stdout.buffer.write; w(b'a' * 10_000_000 + b'\\n'); w(b'1%\\r2%\\r100%\\r\\n'); w(b'\\xff\\xfe\\n'); "
        "[w(b'%d\\r' % i) for i in range(100_000)]; w(b'\\nlast\\r\\n')"
    )
    assert python(tmp_path, text, on_line=said.append).code == 0
    assert len(said[0]) < 5000 and said[0].endswith("(9995904 bytes more)")
    assert said[1:] == ["100%", "\ufffd\ufffd", "99999", "last"]


def test_run__the_environment_is_the_flows_without_what_is_only_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "x")
    monkeypatch.setenv("DVC_ROOT", "/elsewhere")
    monkeypatch.setenv("KEPT", "1")
    python(tmp_path, "import json, os; json.dump(dict(os.environ), open('seen', 'w'))", variables={"GIVEN": "2"})
    seen = json.loads((tmp_path / "seen").read_text())
    assert not {"PREFECT__FLOW_RUN_ID", "DVC_ROOT"} & set(seen)
    assert (seen["KEPT"], seen["GIVEN"], seen["DVC_NO_ANALYTICS"], seen["TUTELAGE_TELL"]) == (
        "1",
        "2",
        "1",
        str(tmp_path / "told"),
    )
    assert seen["PATH"].split(":")[0] == str(Path(sys.executable).parent)


# --- how it ended


def tells(code: int, reason: str, retryable: bool, leaving: int) -> str:
    """A stage that says so, under a DVC that leaves with `leaving`."""
    told = json.dumps({"code": code, "reason": reason, "retryable": retryable})
    return f"import os, sys; open(os.environ['TUTELAGE_TELL'] + '/last_exit.json', 'w').write({told!r}); sys.exit({leaving})"


@pytest.mark.parametrize(
    ("text", "code", "reason", "retryable"),
    [
        (tells(2, "lr is -1", False, 255), 2, "lr is -1", False),
        (tells(1, "the disk is full", True, 255), 1, "the disk is full", True),
        ("import os; os.kill(os.getpid(), 9)", 137, "was killed by SIGKILL", True),
        ("print('ERROR: failed to run: x, exited with -9'); exit(255)", 255, "killed by SIGKILL", True),
        ("print('ERROR: failed to run: x, exited with 1'); exit(255)", 255, "exited with 1", False),
        ("print('ERROR: Unable to acquire lock'); exit(255)", 255, "Unable to acquire lock", True),
        ("print('ERROR: output is already specified'); exit(255)", 255, "already specified", False),
        (
            tells(0, "finished", False, 255).replace("sys.exit", "print('Could not connect'); sys.exit"),
            255,
            "Could not connect",
            True,
        ),
        ("exit(3)", 3, "said nothing", False),
    ],
)
def test_ending__what_the_stage_told_else_what_was_said(
    tmp_path: Path, text: str, code: int, reason: str, retryable: bool
) -> None:
    ending = python(tmp_path, text)
    assert (ending.code, ending.retryable) == (code, retryable)
    assert reason in ending.reason


def test_ending__is_not_that_of_the_run_before(tmp_path: Path) -> None:
    assert python(tmp_path, tells(2, "lr is -1", False, 255)).code == 2
    assert "lr" not in python(tmp_path, "exit(3)").reason


def test_run__a_program_that_is_not_there(tmp_path: Path) -> None:
    ending = Child(["no-such-program"], tmp_path, tmp_path / "told").run()
    assert ending.code == leash.NOT_STARTED and "no-such-program could not be started" in ending.reason
    assert not ending.retryable


def test_limit__ends_a_silent_command_and_says_what_to_do(tmp_path: Path) -> None:
    began = time.monotonic()
    ending = python(tmp_path, "import time; time.sleep(100)", limit_seconds=0.5, saving_seconds=5)
    assert time.monotonic() - began < 30
    assert ending.code == leash.PAST_LIMIT and not ending.retryable and not ending.stopped
    assert "limit of 0.5 s" in ending.reason and "more time" in ending.reason


# --- stopping


def test_stop__dvc_and_its_stage_save_and_leave(repository: Path) -> None:
    one = Thread(staged(repository, REPRO))
    working(repository)
    one.child.stop("cancelled in the browser")
    ending = one.ending()
    assert ending.stopped and not ending.retryable
    assert "cancelled in the browser" in ending.reason and "continues from the last checkpoint" in ending.reason
    assert json.loads((repository / "told/last_exit.json").read_text())["code"] == 128 + signal.SIGINT
    goes_on(repository)


def test_stop__twice_is_once(repository: Path) -> None:
    """A second signal would end the stage without its checkpoint."""
    one = Thread(staged(repository, STAND_IN, SAVE_SECONDS=1))
    working(repository)
    for _ in range(5):
        one.child.stop("impatience")
        time.sleep(0.1)
    assert one.ending().stopped
    goes_on(repository)


@pytest.mark.slow
def test_stop__at_any_moment_of_the_start(repository: Path) -> None:
    """Also before there is a process, while the leash starts, while DVC waits for its lock, and while the stage is imported."""
    for tenth in range(16):
        one = Thread(staged(repository, REPRO))
        time.sleep(tenth / 10)
        one.child.stop("too early")
        try:
            assert one.ending().stopped
        except child.Stopping:
            assert tenth == 0
        assert not left(repository)


def test_stop__while_dvc_waits_for_the_lock(repository: Path) -> None:
    (repository / ".dvc/tmp").mkdir(exist_ok=True)
    with (repository / ".dvc/tmp/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        one = Thread(staged(repository, REPRO))
        time.sleep(1.5)
        assert not one.found.done()
        one.child.stop("cancelled")
        ending = one.ending()
    assert ending.stopped and "killed" not in ending.reason


def dvc_above(stage: int) -> int:
    """The process of DVC; a shell may stand between."""
    above = leash.parents()
    while not child._is_dvc(stage):
        stage = above[stage]
    return stage


@SHELLS
def test_dvc_killed__its_stage_saves_before_run_returns(
    repository: Path, monkeypatch: pytest.MonkeyPatch, shell: str
) -> None:
    """The trainer outlives DVC by a second; a retry that did not wait would be refused by the lease."""
    monkeypatch.setenv("SHELL", shell)
    one = Thread(staged(repository, REPRO, SAVE_SECONDS=1))
    stage = working(repository)
    kill(dvc_above(stage))
    ending = one.ending()
    assert (ending.code, ending.retryable) == (128 + signal.SIGTERM, True), ending
    goes_on(repository)


def test_stage_killed__is_worth_a_retry(repository: Path) -> None:
    (repository / "checkpoint").write_text("7")
    one = Thread(staged(repository, REPRO))
    kill(working(repository))
    ending = one.ending()
    assert ending.retryable and "killed by SIGKILL" in ending.reason
    goes_on(repository)


@pytest.mark.slow
def test_control__who_waits_for_dvc_alone_is_refused_by_the_lease(repository: Path) -> None:
    """Negative control of the test above: without a leash the retry meets the trainer of the run before."""
    environment = {**child.environment(variables(repository, SAVE_SECONDS="2"), repository / "told")}
    process = subprocess.Popen(REPRO, cwd=repository, env=environment)
    working(repository)
    process.kill()
    process.wait()
    assert staged(repository, STAND_IN).run().reason == "already running"
    until(lambda: not left(repository))


def lose_the_leash(repository: Path, command: list[str] = REPRO) -> None:
    """Kill it while its stage works: the stage saves before run() returns."""
    one = Thread(staged(repository, command, SAVE_SECONDS=1))
    working(repository)
    assert one.child._process is not None
    kill(one.child._process.pid)
    ending = one.ending()
    assert (ending.code, ending.retryable) == (128 + signal.SIGTERM, True), ending
    goes_on(repository)


@SHELLS
def test_leash_killed__run_waits_for_those_it_held(
    repository: Path, monkeypatch: pytest.MonkeyPatch, shell: str
) -> None:
    monkeypatch.setenv("SHELL", shell)
    lose_the_leash(repository)


@pytest.mark.parametrize("command", [REPRO, [*execution.DVC, "repro", "-s", "work"]], ids=["script", "module"])
def test_leash_killed__dvc_is_told_where_the_kernel_did_not(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    """A leash that has not asked the kernel to pass on its death: as seen once in CI, where the stage ran to its end."""
    text = Path(leash.__file__).read_text()
    asking = "ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)"
    assert text.count(asking) == 1
    deaf = tmp_path / "deaf.py"
    deaf.write_text(text.replace(asking, "pass"))
    monkeypatch.setattr(leash, "__file__", str(deaf))
    lose_the_leash(repository, command)


@pytest.mark.slow
def test_stubborn__is_killed_with_a_process_in_a_session_of_its_own(repository: Path) -> None:
    one = Thread(staged(repository, STAND_IN, STUBBORN=1, CHILD=1, saving_seconds=1))
    working(repository)
    until(lambda: len(left(repository)) == 3)  # leash, stage and its child
    began = time.monotonic()
    one.child.stop("enough")
    ending = one.ending()
    assert time.monotonic() - began < 30
    assert ending.stopped and "was killed" in ending.reason and not left(repository)
    assert staged(repository, STAND_IN, STEPS=1).run().code == 0


def test_left_behind__by_one_that_finished_is_ended_soon(tmp_path: Path) -> None:
    text = "import subprocess; subprocess.Popen(['sleep', '100'], start_new_session=True)"
    began = time.monotonic()
    assert python(tmp_path, text).code == 0
    assert time.monotonic() - began < 20 and not left(tmp_path)


FLOW = """
import sys, threading
from pathlib import Path
from tests.flows.staged import staged
folder = Path(sys.argv[1])
one = staged(folder, sys.argv[2:], SAVE_SECONDS=1)
threading.Thread(target=one.run).start()
"""


def test_flow_killed__leash_stops_what_it_held(repository: Path) -> None:
    """SIGKILL of the whole flow; its pipe is gone too, and the stage still says something while it saves."""
    environment = {**os.environ, **variables(repository)}
    flow = subprocess.Popen([sys.executable, "-c", FLOW, str(repository), *REPRO], env=environment, cwd=ROOT)
    working(repository)
    flow.kill()
    flow.wait()
    assert len(left(repository)) >= 2
    until(lambda: not left(repository), 60)
    assert json.loads((repository / "told/leash.json").read_text())["stopped"] == "parent"
    assert json.loads((repository / "told/last_exit.json").read_text())["retryable"]
    goes_on(repository)


def test_thread_ended__is_not_the_end_of_the_flow(tmp_path: Path) -> None:
    """The leash is held by the process, whichever thread has started it."""
    held = []

    def start() -> None:
        command = [sys.executable, leash.__file__, "--alive", "--", "sleep", "1.5"]
        held.append(subprocess.Popen(command, stdin=subprocess.PIPE, cwd=tmp_path))

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert held[0].wait(20) == 0


def test_stop_all__two_at_once_and_nothing_after_them(repository: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "work.py").write_text((repository / "work.py").read_text())
    both = [Thread(staged(folder, STAND_IN, SAVE_SECONDS=1)) for folder in (repository, other)]
    for folder in (repository, other):
        working(folder)
    child.stop_all("Ctrl-C")
    assert not left(repository) and not left(other)
    assert all(one.ending().stopped for one in both)
    assert child.stopping()
    with pytest.raises(child.Stopping, match="Ctrl-C"):
        staged(repository, STAND_IN).run()
    child.open_again()
    for folder in (repository, other):
        goes_on(folder)
