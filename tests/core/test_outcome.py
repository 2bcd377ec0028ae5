"""How a stage ends: exit code, stderr, last_exit.json."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stages.lib.core import outcome
from tests.conftest import ROOT

PROGRAM = """
import sys
from stages.lib.core import outcome
from stages.lib.core.outcome import Refusal
from stages.lib.core.signals import Stopped
class Diverged(Refusal): pass
def main():
    {body}
if __name__ == "__main__":
    outcome.run({stage!r}, main)
"""


def end(
    folder: Path, body: str, *arguments: str, stage: str = "stage", variables: dict[str, str] | None = None
) -> tuple[int, str, dict[str, object]]:
    """Run a stage with this body in a process of its own: exit code, stderr, last_exit.json (empty if there is none)."""
    command = [sys.executable, "-c", PROGRAM.format(body=body, stage=stage), *arguments]
    folder.mkdir(exist_ok=True)
    environment = {"TUTELAGE_RUNS": str(folder), "PYTHONPATH": str(ROOT), **(variables or {})}
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=60)
    found = list(folder.glob("*/last_exit.json"))
    return done.returncode, done.stderr, json.loads(found[0].read_text()) if found else {}


@pytest.mark.parametrize(
    ("body", "code", "reason", "retryable"),
    [
        ("pass", 0, "finished", False),
        ("raise Refusal('lr is -1; allowed: above 0')", 2, "lr is -1; allowed: above 0", False),
        ("raise Diverged('the loss is nan')", 2, "the loss is nan", False),
        ("raise ValueError('disk on fire')", 1, "ValueError: disk on fire", True),
        ("raise KeyboardInterrupt", 130, "interrupted", True),
        ("sys.exit(7)", 1, "SystemExit: 7", True),
    ],
)
def test_run__says_how_it_ended(tmp_path: Path, body: str, code: int, reason: str, retryable: bool) -> None:
    status, _, record = end(tmp_path, body)
    assert status == code
    assert record == {"code": code, "reason": reason, "retryable": retryable}


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_run__stopped_is_128_plus_the_signal_and_worth_a_retry(tmp_path: Path, signum: int) -> None:
    status, stderr, record = end(tmp_path, f"raise Stopped({signum:d})")
    assert (status, record["code"], record["retryable"]) == (128 + signum, 128 + signum, True)
    assert signal.Signals(signum).name in str(record["reason"])
    assert "Traceback" not in stderr


def test_run__shows_a_refusal_plainly_and_an_accident_with_its_traceback(tmp_path: Path) -> None:
    assert end(tmp_path, "raise Refusal('set lr above 0')")[1] == "set lr above 0\n"
    assert "Traceback" in end(tmp_path, "raise ValueError('disk on fire')")[1]


def test_run__keeps_items_of_a_foreach_stage_apart(tmp_path: Path) -> None:
    end(tmp_path, "pass", "digits-7-9")
    end(tmp_path, "pass", "../escape")
    end(tmp_path, "pass", "--dry")
    folders = {path.parent.name for path in tmp_path.glob("*/last_exit.json")}
    assert folders == {"stage@digits-7-9", "stage@.._escape", "stage"}


def test_run__a_stage_may_name_its_item_itself(tmp_path: Path) -> None:
    end(tmp_path, "pass", "shards", "digits-7-9", stage="validate-shards@digits-7-9")
    assert [path.parent.name for path in tmp_path.glob("*/last_exit.json")] == ["validate-shards@digits-7-9"]


def test_run__a_kill_is_not_read_as_the_success_before_it(tmp_path: Path) -> None:
    assert end(tmp_path, "pass")[2]["code"] == 0
    status, _, record = end(tmp_path, "import os; os.kill(os.getpid(), 9)")
    assert (status, record) == (-signal.SIGKILL, {})


def test_run__a_record_that_cannot_be_written_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "stage").write_text("a file where the folder should be")
    status, stderr, record = end(tmp_path, "raise Refusal('set lr above 0')")
    assert (status, record) == (2, {})
    assert "set lr above 0" in stderr
    assert "could not write last_exit.json" in stderr


def test_run__logs_plain_lines_to_stderr(tmp_path: Path) -> None:
    assert end(tmp_path, "import logging; logging.getLogger('x').info('12 images')")[1] == "12 images\n"


def test_refusal__is_an_exception_with_its_message() -> None:
    assert str(outcome.Refusal("why")) == "why"


def test_run__a_full_disk_is_said_in_a_sentence(tmp_path: Path) -> None:
    status, stderr, record = end(tmp_path, "raise OSError(28, 'No space left on device', 'a.ckpt')")
    assert (status, record["code"], record["retryable"]) == (1, 1, True)
    assert "the disk is full where a.ckpt should go" in stderr and "Traceback" not in stderr
    _, stderr, record = end(
        tmp_path, "raise OSError(5, 'Input/output error', 'a.ckpt')"
    )  # control: another fault of a disk
    assert "Traceback" in stderr and "full" not in str(record["reason"])


def test_run__tells_whoever_started_it_as_well(tmp_path: Path) -> None:
    """In a folder of its own, where another run of the same stage writes nothing; what stood there before is gone at once."""
    told = tmp_path / "told"
    told.mkdir()
    (told / "last_exit.json").write_text("the run before")
    look = f"print(open({str(told / 'last_exit.json')!r}).read())"
    variables = {"TUTELAGE_TELL": str(told)}
    assert "FileNotFoundError" in end(tmp_path / "runs", look, variables=variables)[1]
    _, _, record = end(tmp_path / "runs", "raise Refusal('set lr above 0')", variables=variables)
    assert (
        json.loads((told / "last_exit.json").read_text())
        == record
        == {
            "code": 2,
            "reason": "set lr above 0",
            "retryable": False,
        }
    )


def test_run__a_program_that_a_stage_starts_does_not_speak_for_it(tmp_path: Path) -> None:
    told = tmp_path / "told"
    inner = PROGRAM.format(body="pass", stage="fetch@file")
    body = f"import subprocess; subprocess.run([sys.executable, '-c', {inner!r}]); import os; os.kill(os.getpid(), 9)"
    end(tmp_path / "runs", body, variables={"TUTELAGE_TELL": str(told)})
    assert (tmp_path / "runs/fetch@file/last_exit.json").exists() and not (told / "last_exit.json").exists()


def test_run__one_of_the_two_folders_that_cannot_be_written_does_not_empty_the_other(tmp_path: Path) -> None:
    (tmp_path / "told").write_text("a file where the folder should be")
    status, stderr, record = end(tmp_path / "runs", "pass", variables={"TUTELAGE_TELL": str(tmp_path / "told")})
    assert (status, record["code"]) == (0, 0) and "could not write last_exit.json" in stderr
