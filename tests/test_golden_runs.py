"""The first 30 steps of every stage that trains are what they were, and what compares them would notice if not."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch

from stages.lib.params.everything import Everything
from tests import golden_runs
from tests.conftest import ROOT
from tests.forks import Forks
from tests.golden_runs import MOVED, STAGES, STEPS, TOLERANCE, Row
from tests.workspace import edit

RATES = {
    "teacher": "teacher",
    "pretrain": "pretrain",
    "distill": "train",
    "finetune": "finetune",
    "transfer": "transfer",
}
"""Stage -> its block of params.yaml."""


class Place:
    """A project with shards and stand-ins, whose stages run in forks."""

    def __init__(self, folder: Path, forks: Forks, stages: Sequence[str]) -> None:
        self.folder, self.forks, self.count = folder, forks, 0
        self.params = golden_runs.lay_out(folder / "made", ROOT)
        golden_runs.make_data(folder / "made", self.params, stages, self.run)

    def run(self, folder: Path, module: str, arguments: Sequence[str], variables: Mapping[str, str]) -> None:
        """As golden_runs.Run."""
        ended = self.forks.run("tests.golden_runs:in_fork", module, list(arguments), dict(variables), folder=folder)
        golden_runs.refuse_unless_tried(module, ended.code, ended.output, bool(variables))

    def curve(self, stage: str, changes: Mapping[str, object] | None = None) -> golden_runs.Curve:
        """Of the working tree's recipe, or of one with changes."""
        self.count += 1
        folder = self.folder / f"{stage}-{self.count}"
        golden_runs.lay_out(folder, ROOT)
        edit(folder, dict(changes or {}))
        for kind in ("index", "shards", "models"):
            (folder / "data" / kind).symlink_to(self.folder / "made/data" / kind)
        return golden_runs.measured(folder, stage, self.params, self.run)

    def beside_the_file(self, stage: str, changes: Mapping[str, object] | None = None) -> Row:
        (row,) = golden_runs.against_file({stage: self.curve(stage, changes)})
        return row


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Place:
    return Place(tmp_path_factory.mktemp("golden") / "runs", forks, ["pretrain", "distill"])


@pytest.fixture(scope="module")
def every_place(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Place:
    return Place(tmp_path_factory.mktemp("golden") / "all", forks, STAGES)


@pytest.mark.parametrize("stage", ["pretrain", "distill"])
def test_curve__is_what_it_was(place: Place, stage: str) -> None:
    row = place.beside_the_file(stage)
    assert row.equal, f"{golden_runs.table([row])}\n{MOVED}"


def changed(stage: str, params: Everything) -> list[dict[str, object]]:
    """A learning rate of 1 % more; another seed."""
    block = getattr(params, RATES[stage])
    seed = "seed" if stage == "pretrain" else "views.seed"
    return [{f"{RATES[stage]}.optimizer.lr": block.optimizer.lr * 1.01}, {f"{RATES[stage]}.{seed}": 9}]


def test_curve__of_a_rate_one_percent_higher_is_another(place: Place) -> None:
    """Negative control."""
    row = place.beside_the_file("distill", changed("distill", place.params)[0])
    assert row.first is not None and row.first <= 4 and row.difference > 10 * TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_curve__of_every_stage_is_what_it_was_and_of_another_recipe_is_not(every_place: Place, stage: str) -> None:
    row = every_place.beside_the_file(stage)
    assert row.equal, f"{golden_runs.table([row])}\n{MOVED}"
    for changes in changed(stage, every_place.params):
        other = every_place.beside_the_file(stage, changes)
        assert other.first is not None and other.first <= 10 and other.difference > 10 * TOLERANCE, changes


def test_losses__are_the_steps_own_to_the_last_bit() -> None:
    """From means over an epoch of three steps, as the log has them."""
    steps = [2.5, 1.2500001192092896, 0.10000000149011612, 3.0, 7.0]
    means = [sum(steps[0:1]), sum(steps[0:2]) / 2, sum(steps[0:3]) / 3, steps[3], sum(steps[3:5]) / 2]
    rows = [{"step": number, "loss": mean} for number, mean in enumerate(means, 1)]
    assert golden_runs.losses(rows, 3) == steps


def test_compared__finds_the_first_step_and_the_largest_difference() -> None:
    assert golden_runs.compared("x", [1.0, 2.0, 4.0], [1.0, 2.0, 4.0]).equal
    row = golden_runs.compared("x", [1.0, 2.0, 4.0], [1.0, 2.0 + 2**-22, 3.0])
    assert (row.first, row.difference, row.equal) == (2, 0.25, False)
    assert golden_runs.compared("x", [1.0, 2.0], [1.0, 2.0002], [1e-3, 1e-3]).equal
    assert golden_runs.compared("x", [1.0, 2.0], [1.0, float("nan")], [1e-3, 1e-3]).first == 2


def test_differing__names_what_is_not_the_same_bits() -> None:
    one = {"a": torch.ones(2), "b": torch.ones(2), "c": torch.ones(1)}
    other = {"a": torch.ones(2), "b": torch.tensor([1.0, 1.0 + 2**-23]), "d": torch.ones(1)}
    assert golden_runs.differing(one, one) == [] and golden_runs.differing(one, other) == ["b", "c", "d"]


def test_write__says_what_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golden_runs, "FILE", tmp_path / "kept.json")
    one = [1.0 + step for step in range(STEPS)]
    assert golden_runs.write({"teacher": one, "pretrain": one}) == ["teacher: is new", "pretrain: is new"]
    said = golden_runs.write({"teacher": [*one[:-1], 2.0], "pretrain": one})
    assert said[0] == "teacher: MOVED from step 30 on (largest difference 9.3e-01)"
    assert said[1] == "pretrain: did not move (largest difference 0.0e+00)"
    kept = json.loads((tmp_path / "kept.json").read_text())
    assert kept["curves"]["teacher"][-1] == 2.0 and "CHANGELOG.md" in kept["about"]


def test_file__holds_thirty_steps_of_every_stage() -> None:
    kept = json.loads(golden_runs.FILE.read_text())
    assert {stage: len(curve) for stage, curve in kept["curves"].items()} == dict.fromkeys(STAGES, STEPS)
    assert "CHANGELOG.md" in kept["about"]


@pytest.mark.parametrize("call", [["HEAD"], ["a", "b", "--write"], ["--stages", "label"]])
def test_main__a_wrong_call_is_refused(call: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        golden_runs.main(call)
    assert caught.value.code == 2


def temporaries() -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob(f"{golden_runs.PREFIX}*"))


def test_main__a_revision_that_is_none_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert golden_runs.main(["no-such-revision", "HEAD"]) == 1
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "no-such-revision" in capsys.readouterr().err
    assert not [path for path in temporaries() if f"-{os.getpid()}-" in path.name]


def test_workplace__removes_what_a_killed_process_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left, alive = (tmp_path / f"{golden_runs.PREFIX}{pid}-x" for pid in (dead.pid, os.getppid()))
    for folder in (left, alive):
        folder.mkdir()
    with golden_runs._workplace() as place:
        assert place.parent == tmp_path and not left.exists() and alive.exists()
    assert list(tmp_path.iterdir()) == [alive]


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.invalid"]
    return subprocess.run(
        ["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True, text=True
    ).stdout


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of the working tree's files, and two later commits: one edits a comment, one a learning rate."""
    folder = tmp_path_factory.mktemp("history") / "repository"
    git(ROOT, "clone", "--quiet", "--no-hardlinks", "--depth=1", f"file://{ROOT}", str(folder))
    names = git(ROOT, "ls-files", "--cached", "--others", "--exclude-standard").split("\n")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "-m", "as it is")
    loop = folder / "stages/lib/training/loop.py"
    loop.write_text(loop.read_text() + "# an edit that cannot change results\n")
    git(folder, "commit", "--quiet", "-am", "a comment")
    edit(folder, {"pretrain.optimizer.lr": 1.515e-3})
    git(folder, "commit", "--quiet", "-am", "one percent")
    return folder


def compare(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.golden_runs", *arguments]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow
def test_revisions__a_comment_is_equal_and_a_rate_is_not(history: Path) -> None:
    same = compare(history, "HEAD~2", "HEAD~1", "--stages", "pretrain,transfer")
    output, _ = same.communicate(timeout=900)
    assert same.returncode == 0, output
    assert [line.split()[:3] for line in output.splitlines()[-2:]] == [
        ["pretrain", "yes", "-"],
        ["transfer", "yes", "-"],
    ]
    other = compare(history, "HEAD~1", "HEAD", "--stages", "pretrain,transfer")
    output, _ = other.communicate(timeout=900)
    assert other.returncode == 1, output
    one, two = (line.split() for line in output.splitlines()[-2:])
    assert one[:2] == ["pretrain", "NO"] and 2 <= int(one[2]) <= 4 and two[:3] == ["transfer", "yes", "-"]
    assert git(history, "worktree", "list").count("\n") == 1 and git(history, "status", "--porcelain") == ""


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_revisions__stopped_in_the_middle_leaves_nothing(history: Path, signum: signal.Signals) -> None:
    """Neither a folder nor a stage that goes on."""
    process = compare(history, "HEAD~1", "HEAD", "--stages", "pretrain")
    mine = f"{golden_runs.PREFIX}{process.pid}-"
    while not any((path / "one/data/index").exists() for path in temporaries() if path.name.startswith(mine)):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signum)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert not [path for path in temporaries() if path.name.startswith(mine)]
    time.sleep(0.2)  # a stage that loses its parent is told by the kernel
    assert not [path for path in Path("/proc").glob("[0-9]*/cwd") if mine in _target(path)]


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""
