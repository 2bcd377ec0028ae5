"""What `make prefect` says when it can't start; tests/e2e/test_embedded.py starts it for real."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows import embedded
from tests.doors import doors, open_to_others


@pytest.fixture
def listener() -> socket.socket:
    one = socket.socket()
    one.bind(("127.0.0.1", 0))
    one.listen()
    return one


def test_a_taken_port_is_named_with_its_holder(listener: socket.socket) -> None:
    with listener:
        port = listener.getsockname()[1]
        assert not embedded.usable(port)
        assert embedded.holder(port).startswith(f"process {os.getpid()}: ")
        assert not embedded.answers(f"http://127.0.0.1:{port}/")
        done = subprocess.run(
            [sys.executable, "-m", "flows.embedded", "--port", str(port)], capture_output=True, text=True, timeout=30
        )
        assert done.returncode == 2
        assert f"port {port} is taken by process {os.getpid()}" in done.stderr and "PORT=" in done.stderr
    assert embedded.usable(embedded.free_port())
    assert not embedded.usable(99999)


def test_one_start_holds_a_folder(tmp_path: Path) -> None:
    with (
        embedded.held(tmp_path, "http://127.0.0.1:4200"),
        pytest.raises(embedded.Refused, match=f"http://127.0.0.1:4200 \\(process {os.getpid()}"),
        embedded.held(tmp_path, "http://127.0.0.1:4201"),
    ):
        pass
    with embedded.held(tmp_path, "http://127.0.0.1:4202"):
        assert json.loads((tmp_path / "embedded.lock").read_text())["url"] == "http://127.0.0.1:4202"


def test_starting_it_is_quick_and_imports_neither_prefect_nor_torch() -> None:
    code = "import flows.embedded, flows.worker, flows.settle, flows.deploy, sys; print({'prefect', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "set()"


def test_doors__finds_what_others_reach_and_what_not(listener: socket.socket) -> None:
    """The control of every test that says: loopback alone."""
    with listener, socket.socket() as everybody, socket.socket(socket.AF_INET6) as six:
        everybody.bind(("0.0.0.0", 0))
        everybody.listen()
        six.bind(("::", 0))
        six.listen()
        mine = {listener.getsockname(), everybody.getsockname(), six.getsockname()[:2]}
        assert mine <= doors([os.getpid()])
        assert mine & open_to_others([os.getpid()]) == mine - {listener.getsockname()}


def test_every_server__is_told_to_listen_on_loopback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the caller's environment says; the report's is started, the others are by tests/e2e/test_embedded.py."""
    monkeypatch.setenv("PREFECT_SERVER_API_HOST", "0.0.0.0")
    commands: dict[str, list[str]] = {}
    monkeypatch.setattr(embedded.Embedded, "_add", lambda _, name, command: commands.update({name: command}))
    monkeypatch.setattr(embedded.Embedded, "_answer", lambda _: None)
    monkeypatch.setattr(embedded.Embedded, "_once", lambda *_, **__: None)
    (tmp_path / "data/reports").mkdir(parents=True)
    one = embedded.Embedded(tmp_path, tmp_path / "home", 0, ["tutelage"], True)
    one._start()
    assert set(commands) == {"server", "tensorboard", "report", "worker of tutelage"}
    for name in ("server", "tensorboard", "report"):
        command = commands[name]
        at = command.index("--bind" if name == "report" else "--host")
        assert command[at + 1] == "127.0.0.1", name
    for flag in (["--bind", "127.0.0.1"], ["--bind", "0.0.0.0"]):  # the second one is the control
        at = commands["report"].index("--bind")
        command = [*commands["report"][:at], *flag, *commands["report"][at + 2 :]]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            until = time.monotonic() + 20
            while not doors([process.pid]) and time.monotonic() < until:
                time.sleep(0.02)
            seen, open_ones = doors([process.pid]), open_to_others([process.pid])
            process.kill()
        assert seen and bool(open_ones) == ("0.0.0.0" in flag), (flag, seen)
