"""Services: started again when they end, gone with whoever started them, and nothing of theirs left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flows import service

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


def until(true: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def python(code: str, folder: Path, **options: signal.Signals) -> service.Service:
    return service.Service("one", [sys.executable, "-c", code], dict(os.environ), folder, folder / "said", **options)


def test_a_service_that_ends_is_started_again_after_a_longer_pause_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = [100.0]
    monkeypatch.setattr(service.time, "monotonic", lambda: clock[0])
    one = python("print('said')", tmp_path)
    one.start()
    for pause in (1, 2, 4, 8):
        assert one.process is not None
        one.process.wait(20)
        one.look()
        assert f"starting it again in {pause} s" in caplog.text
        clock[0] += pause - 0.1
        one.look()
        assert not one.runs
        clock[0] += 0.2
        one.look()
        assert one.process is not None
    one.process.wait(20)
    assert (tmp_path / "said").read_text() == "said\n" * 5
    clock[0] += service.STEADY_SECONDS + 1  # it ran well for a while: a failure then is a new one
    caplog.clear()
    one.look()
    assert "starting it again in 1 s" in caplog.text


def test_one_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    one = python(STUBBORN, tmp_path)
    one.start()
    until(lambda: (tmp_path / "said").read_text() == "up\n")
    one.stop(0.3)
    assert one.process is not None and one.process.returncode == -signal.SIGKILL
    one.stop(0.3)  # twice is harmless


def test_signals_are_as_in_the_foreground_though_a_shell_had_them_ignored(tmp_path: Path) -> None:
    code = (
        "import signal, sys, os; signal.signal(signal.SIGINT, signal.SIG_IGN); from flows import service; from pathlib import Path;"
        "one = service.Service('one', [sys.executable, '-c', 'import signal; print(signal.getsignal(signal.SIGINT))'],"
        f" dict(os.environ), Path('.'), Path({str(tmp_path / 'said')!r})); one.start(); one.process.wait(20)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
    assert "default_int_handler" in (tmp_path / "said").read_text()


@pytest.mark.parametrize("with_us", ["SIGTERM", "SIGKILL"])
def test_it_ends_when_we_are_killed(tmp_path: Path, with_us: str) -> None:
    code = (
        "import sys, os, signal, time; from flows import service; from pathlib import Path; said = Path(sys.argv[1]);"
        "one = service.Service('one', ['sleep', '60'], dict(os.environ), Path('.'), said, signal.Signals[sys.argv[2]]);"
        "one.start(); print(one.process.pid, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "said"), with_us]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.kill()
    until(lambda: not alive(pid))


def test_children_and_orphans_are_found_and_stopped() -> None:
    """A process adopts what its child left behind; the one that ignores SIGTERM is killed, the spared one lives."""
    code = f"""
import subprocess, sys, time, os
from flows import service
service.adopt_orphans()
spared = subprocess.Popen(["sleep", "60"])
stubborn = subprocess.Popen([sys.executable, "-c", {STUBBORN!r}], stdout=subprocess.PIPE, start_new_session=True)
stubborn.stdout.readline()
between = subprocess.Popen(["sh", "-c", "sleep 60 & echo $!"], stdout=subprocess.PIPE, text=True)
orphan = int(between.stdout.readline())
between.wait()
assert set(service.children(os.getpid())) == {{spared.pid, stubborn.pid, orphan}}
killed = service.stop_children(os.getpid(), 0.5, spare=[spared.pid])
assert killed == [stubborn.pid], killed
assert service.children(os.getpid()) == [spared.pid]
spared.kill()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


@pytest.mark.parametrize(("variable", "ends"), [("PREFECT__FLOW_RUN_ID", True), ("SOMETHING_ELSE", False)])
def test_an_engine_ends_with_its_worker_and_nothing_else_does(tmp_path: Path, variable: str, ends: bool) -> None:
    inner = "from flows import service; import time; service.end_with_worker(); print('up', flush=True); time.sleep(60)"
    code = (
        "import subprocess, sys, time; one = subprocess.Popen([sys.executable, '-c', sys.argv[1]], stdout=subprocess.PIPE);"
        "one.stdout.readline(); open(sys.argv[2], 'w').write(str(one.pid)); time.sleep(60)"
    )
    said = tmp_path / "said"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    with subprocess.Popen([sys.executable, "-c", code, inner, said], env={**environment, variable: "1"}) as worker:
        until(lambda: said.exists() and said.read_text())
        worker.kill()
    pid = int(said.read_text())
    if ends:
        until(lambda: not alive(pid))
    else:
        time.sleep(0.3)
        assert alive(pid)
        os.kill(pid, signal.SIGKILL)


def test_an_exit_in_words() -> None:
    assert service.ending(3) == "exit code 3"
    assert service.ending(-9) == "SIGKILL"
