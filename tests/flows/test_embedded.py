"""What `make prefect` says when it can't start; tests/e2e/test_embedded.py starts it for real."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from flows import embedded


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
