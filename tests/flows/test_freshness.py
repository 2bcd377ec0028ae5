"""Whether a stage has anything to do is what `dvc repro` would say, with and without the outs at hand."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flows import graph
from flows.freshness import Freshness
from tests.workspace import environment

DVC_YAML = """
stages:
  look:
    cmd: mkdir -p out/in && cp raw.txt out/look.txt
    deps: [raw.txt]
    outs: [out/look.txt]
    always_changed: true
  one:
    cmd: mkdir -p out/in && cat out/look.txt > out/in/one.txt && echo ${n} >> out/in/one.txt
    deps: [out/look.txt]
    params: [n]
    outs: [out/in/one.txt]
  two:
    cmd: wc -c raw.txt > out/in/two.txt
    deps: [raw.txt]
    outs: [out/in/two.txt]
  both:
    cmd: cat out/in/*.txt > both.txt
    deps: [out/in]
    outs: [both.txt]
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose every stage has run."""
    root = tmp_path_factory.mktemp("project")
    run(root, "git", "init", "-q")
    run(root, "dvc", "init", "-q")
    (root / ".gitignore").write_text("/out\n/both.txt\n")  # else DVC writes one into each folder of outs
    (root / "dvc.yaml").write_text(DVC_YAML)
    (root / "params.yaml").write_text("n: 1\n")
    (root / "raw.txt").write_text("raw")
    run(root, "dvc", "repro", "-q")
    return root


@pytest.fixture
def project(done: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(done, tmp_path / "project", symlinks=True))


def run(root: Path, program: str, *arguments: str) -> str:
    command = [sys.executable, "-m", "dvc", *arguments] if program == "dvc" else [program, *arguments]
    finished = subprocess.run(command, cwd=root, env=environment(), capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def changed(root: Path, without_data: bool = False) -> set[str]:
    fresh = Freshness(root, without_data)
    found = {stage.name for stage in graph.read(root) if not fresh.ask(stage.name).unchanged}
    fresh.close()
    return found


def test_nothing_changed__only_what_always_runs(project: Path) -> None:
    assert changed(project) == {"look"}
    assert "one" not in run(project, "dvc", "repro", "--dry").replace("'one' didn't change", "")


def test_parameter__makes_its_stage_stale_only_until_it_has_run(project: Path) -> None:
    (project / "params.yaml").write_text("n: 2\n")
    fresh = Freshness(project)
    assert not fresh.ask("one").unchanged and fresh.ask("two").unchanged
    run(project, "dvc", "repro", "-q", "-s", "one")
    assert fresh.ask("one").unchanged and not fresh.ask("both").unchanged


def test_command__makes_its_stage_stale(project: Path) -> None:
    (project / "dvc.yaml").write_text(DVC_YAML.replace("wc -c", "wc -w"))
    assert changed(project) == {"look", "two"}


def test_missing_out__is_to_be_made_unless_data_lies_elsewhere(project: Path) -> None:
    (project / "out/in/two.txt").unlink()
    assert changed(project) == {"look", "two", "both"}
    assert changed(project, without_data=True) == {"look"}


def test_without_data__dvc_lock_alone_answers_also_for_folders_of_outs(project: Path) -> None:
    shutil.rmtree(project / "out")
    (project / "both.txt").unlink()
    shutil.rmtree(project / ".dvc/cache")
    assert changed(project, without_data=True) == {"look"}
    lock = (project / "dvc.lock").read_text()
    other = "0123456789abcdef0123456789abcdef"
    mine = next(line for line in lock[lock.index("  two:") :].split("outs:")[1].splitlines() if "md5:" in line)
    (project / "dvc.lock").write_text(lock.replace(mine, f"      md5: {other}"))
    assert "both" in changed(project, without_data=True)


def test_recipe__is_that_of_content_not_of_place(project: Path, done: Path) -> None:
    here, there = Freshness(project), Freshness(done)
    away = Freshness(project, without_data=True)
    for name in ("one", "two", "both"):
        assert here.ask(name).recipe == there.ask(name).recipe == away.ask(name).recipe
    assert len({here.ask(name).recipe for name in ("one", "two", "both")}) == 3
    (project / "params.yaml").write_text("n: 2\n")
    assert here.ask("one").recipe != there.ask("one").recipe
    assert here.ask("two").recipe == there.ask("two").recipe
    (project / "raw.txt").write_text("other")
    assert here.ask("two").recipe != there.ask("two").recipe
