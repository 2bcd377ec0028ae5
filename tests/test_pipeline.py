"""The real pipeline through real DVC, shrunk: every stage once, then what an edit or an experiment makes stale."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.flows.staged import until
from tests.workspace import ROOT, edit, environment, start

pytestmark = pytest.mark.slow
QUICK = {
    "teacher.views.epochs": 3,
    "teacher.schedule.warmup_epochs": 1,
    "pretrain.epochs": 3,
    "pretrain.schedule.warmup_epochs": 1,
    "train.views.epochs": 3,
    "train.schedule.warmup_epochs": 1,
    "finetune.views.epochs": 1,
    "finetune.schedule.warmup_epochs": 0,
    "transfer.views.epochs": 1,
    "transfer.schedule.warmup_epochs": 0,
}
ALWAYS = {"scan@digits-0-6", "scan@digits-7-9"}
AFTER_DISTILL = {
    "distill",
    "validate-model@student",
    "finetune",
    "validate-model@finetuned",
    "evaluate@student",
    "evaluate@finetuned",
    "look@student",
    "look@finetuned",
    "attend@student",
    "attend@finetuned",
    "export@student",
    "export@finetuned",
    "transfer@digits-7-9",
    "report",
}


def dvc(folder: Path, *arguments: str, check: bool = True) -> str:
    """Output of a dvc command."""
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0 or not check, done.stdout + done.stderr
    return done.stdout + done.stderr


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True)


def ran(output: str) -> set[str]:
    """Stages whose command ran."""
    return {line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage '")}


def stale(folder: Path) -> set[str]:
    """Stages that `dvc status` names, without scan, which always is."""
    return set(json.loads(dvc(folder, "status", "--json"))) - ALWAYS


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh clone of the working tree, shrunk, after one `dvc repro`."""
    folder = tmp_path_factory.mktemp("pipeline") / "clone"
    files = subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, text=True).splitlines()
    for name in files:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    edit(folder, QUICK)
    for limits in (folder / "data/expectations").glob("model-*.json"):  # three epochs teach little
        suite = json.loads(limits.read_text())
        suite["tables"] = {"tensors": suite["tables"]["tensors"]}
        limits.write_text(json.dumps(suite))
    git(folder, "init", "-q")
    git(folder, "config", "user.email", "test@example.org")
    git(folder, "config", "user.name", "Test")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "start")
    dvc(folder, "repro")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "reproduced")
    return folder


@pytest.fixture
def clean(reproduced: Path) -> Iterator[Path]:
    """The reproduced clone, put back afterwards."""
    yield reproduced
    git(reproduced, "checkout", "-q", "--", ".")
    dvc(reproduced, "checkout", "--quiet", check=False)


def test_repro__a_second_time_runs_scan_alone(clean: Path) -> None:
    assert ran(dvc(clean, "repro")) == ALWAYS
    assert stale(clean) == set()


def test_repro__from_nothing_gives_the_same_lock(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (clean / "dvc.lock").read_text()
    elsewhere = clean / "data/runs/again"  # no checkpoint to fall back on: everything is really trained again
    monkeypatch.setenv("TUTELAGE_RUNS", str(elsewhere))
    command = [sys.executable, "-m", "dvc", "repro", "--force"]
    subprocess.run(
        command, cwd=clean, env={**environment(), "TUTELAGE_RUNS": str(elsewhere)}, check=True, capture_output=True
    )
    assert (elsewhere / "distill").is_dir()
    assert (clean / "dvc.lock").read_text() == before


def another_clone(reproduced: Path, folder: Path) -> Path:
    """Of the same commit, with nothing made and nothing cached."""
    git(folder.parent, "clone", "-q", str(reproduced), str(folder))
    (folder / "dvc.lock").unlink()
    return folder


def started(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    """A dvc command in a session of its own, so that it can be killed with everything it started."""
    return subprocess.Popen(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=folder,
        env=environment(),
        start_new_session=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def locked(folder: Path) -> set[str]:
    """Stages that dvc.lock says are done."""
    lock = folder / "dvc.lock"
    return set(YAML(typ="safe").load(lock)["stages"]) if lock.exists() else set()


def test_repro__killed_at_any_point_repeats_nothing_and_ends_the_same(reproduced: Path, tmp_path: Path) -> None:
    """SIGKILL to DVC and its stage together, again and again, until the last start is left alone."""
    seed = random.randrange(1_000_000)
    dice, folder = random.Random(seed), another_clone(reproduced, tmp_path / "clone")
    kills, over = 0, False
    while not over:
        done, process = locked(folder), started(folder, "repro")
        try:
            output, _ = process.communicate(timeout=dice.uniform(4, 25) if kills < 12 else None)
            over = True
            assert process.returncode == 0, output
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            kills += 1
        assert not ran(output) & done - ALWAYS, f"seed {seed}, kill {kills}: {ran(output) & done} ran again\n{output}"
    assert kills >= 3, f"killed {kills} times only: nothing was shown"
    assert (folder / "dvc.lock").read_text() == (reproduced / "dvc.lock").read_text(), f"seed {seed}"
    assert ran(dvc(folder, "repro")) == ALWAYS


def test_repro__two_at_once_one_works_and_the_other_says_so(reproduced: Path, tmp_path: Path) -> None:
    """The second is refused by DVC, which names who is at work; past DVC, the lease of the run folder does it."""
    folder = another_clone(reproduced, tmp_path / "clone")
    edit(folder, {"pretrain.epochs": 4000})  # it is stopped below
    first = started(folder, "repro", "pretrain")
    assert first.stdout is not None
    for line in first.stdout:
        if line.startswith("Running stage 'pretrain'"):
            break
    second = dvc(folder, "repro", "-s", "pretrain", check=False)
    assert f"(PID {first.pid})" in second and "busy" in second, second
    until(lambda: list((folder / "data/runs/pretrain").glob("*/lease")))
    beside = start(folder, "stages.pretrain", "digits-0-6")
    output, _ = beside.communicate(timeout=120)
    assert beside.returncode == 2 and "already running (process " in output, output
    assert first.poll() is None  # undisturbed
    os.killpg(first.pid, signal.SIGINT)
    rest, _ = first.communicate(timeout=120)
    assert "the same command continues from the last checkpoint" in rest


@pytest.mark.parametrize(
    ("name", "old", "new", "expected"),
    [
        ("stages/lib/reporting/figures.py", '"""', '"""Edited. ', {"report"}),
        (
            "stages/lib/reporting/card.py",
            '"""',
            '"""Edited. ',
            {"export@teacher", "export@student", "export@finetuned", "export-mae"},
        ),
        ("stages/lib/objectives/distill.py", "class Distill", "# edited\nclass Distill", {"distill", "finetune"}),
        ("stages/lib/models/teaching.py", '"""', '"""Edited. ', {"label", "distill", "finetune"}),
        (
            "data/expectations/manifest.json",
            '"about": "',
            '"about": "edited ',
            {"validate-manifest@digits-0-6", "validate-manifest@digits-7-9"},
        ),
    ],
)
def test_status__names_exactly_what_an_edit_makes_stale(
    clean: Path, name: str, old: str, new: str, expected: set[str]
) -> None:
    path = clean / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    assert stale(clean) == expected


def test_status__another_store_makes_shards_stale_and_no_manifest(clean: Path) -> None:
    edit(clean, {"shard.store": {"short_side": 4, "quality": 90, "subsampling": "4:4:4"}})
    sets = ("digits-0-6", "digits-7-9")
    assert stale(clean) == {"check", *(f"shard@{name}" for name in sets)}
    dvc(clean, "repro", *(f"shard@{name}" for name in sets))
    following = {f"validate-shards@{name}" for name in sets} | {"teacher", "pretrain", "distill", "finetune"}
    assert following <= stale(clean)  # through the index
    assert not any(stage.startswith(("ingest", "validate-manifest", "shard@")) for stage in stale(clean))


def test_repro__an_edited_limit_runs_its_gate_and_the_page_that_shows_it(clean: Path) -> None:
    path = clean / "data/expectations/shards.json"
    path.write_text(path.read_text().replace('"about": "', '"about": "edited ', 1))
    gates = {"validate-shards@digits-0-6", "validate-shards@digits-7-9"}
    assert ran(dvc(clean, "repro")) == ALWAYS | gates | {
        "report"
    }  # the page shows every gate's limits; nothing else does


@pytest.mark.parametrize("kind", ["soft", "none"])
def test_experiment__one_word_reruns_distill_and_what_follows(clean: Path, kind: str) -> None:
    assert ran(dvc(clean, "exp", "run", "-S", f"train.distill={kind}")) == ALWAYS | {"check"} | AFTER_DISTILL


def test_experiment__with_stored_labels_a_sweep_never_runs_the_teacher_again(clean: Path) -> None:
    """And the first of them makes the very student of live labels, so nothing after it runs at all."""
    before = (clean / "data/models/student/model.safetensors").read_bytes()
    assert ran(dvc(clean, "exp", "run", "-S", "train.labels=stored")) == ALWAYS | {"check", "label", "distill"}
    assert (clean / "data/models/student/model.safetensors").read_bytes() == before
    sweep = ran(dvc(clean, "exp", "run", "-S", "train.alpha=0.3"))
    assert sweep == ALWAYS | {"check"} | AFTER_DISTILL  # no label
    assert (clean / "data/models/student/model.safetensors").read_bytes() != before
    other = ran(dvc(clean, "exp", "run", "-S", "train.views.seed=1"))  # negative control: other views
    assert other == ALWAYS | {"check", "label"} | AFTER_DISTILL


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.distill=banana", ["train.distill", "banana", "hard"]),
        ("pretrain.mask_ratio=1.5", ["pretrain.mask_ratio", "1.5"]),
    ],
)
def test_experiment__a_bad_value_stops_in_check_and_nothing_is_lost(
    clean: Path, override: str, words: list[str]
) -> None:
    before = sorted(path for path in (clean / "data/models").rglob("*"))
    output = dvc(clean, "exp", "run", "-S", override, check=False)
    assert ran(output) == {"check"} and all(word in output for word in words), output
    assert sorted(path for path in (clean / "data/models").rglob("*")) == before


def test_repro__raw_data_that_went_away_keeps_the_recorded_listing(clean: Path) -> None:
    raw = clean / "data/raw"
    os.rename(raw, raw.with_name("away"))
    edit(clean, {"sources.digits-7-9.embedded": None, "sources.digits-0-6.embedded": None})
    try:
        output = dvc(clean, "repro", "scan@digits-0-6")
    finally:
        os.rename(raw.with_name("away"), raw)
    assert "recorded" in output
