"""One benchmark at a time, on cores that exist."""

import tempfile
import threading
from pathlib import Path

import pytest

from benchmarks import machine


def test_alone__waits_for_the_other_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    entered = threading.Event()

    def second() -> None:
        with machine.alone():
            entered.set()

    with machine.alone():
        thread = threading.Thread(target=second)
        thread.start()
        assert not entered.wait(0.2)
    assert entered.wait(10)
    thread.join()
    assert "another benchmark runs" in capsys.readouterr().err


def test_description__names_what_both_sides_are_made_of() -> None:
    described = machine.description()
    assert all(name in described for name in (*machine.PACKAGES, "cores", "GiB", "Python"))


def test_description__of_a_machine_that_lacks_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a benchmark does not import it does not need."""
    monkeypatch.setattr(machine, "PACKAGES", ("numpy", "no-such-package"))
    described = machine.description()
    assert "no-such-package absent" in described and "numpy absent" not in described
