"""Run folders: identity, lease, atomic writes."""

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from stages.lib.core import files, runs
from stages.lib.core.outcome import Refusal


class Block(BaseModel):
    lr: float = 0.1


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one declared stage."""
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "a.py").write_text("x = 1\n")
    (tmp_path / "stages" / "a.c").write_text("int x = 1;\n")
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n  a:\n    cmd: python -m stages.a\n    deps: [data/in, stages/a.c, stages/a.py]\n"
        "    params: [a, versions.numpy]\n"
        "  b:\n    foreach: [x]\n    do:\n      cmd: python -m stages.a\n      deps: [stages/a.py]\n"
    )
    (tmp_path / "params.yaml").write_text("versions: {numpy: 1.0, torch: 2.0}\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "in").write_text("input\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUTELAGE_RUNS", str(tmp_path / "runs"))
    return tmp_path


def name(lr: float = 0.1) -> str:
    return runs.identity("a", [Block(lr=lr)], [Path("data/in")])[0]


def test_identity__is_the_recipe_and_nothing_else(project: Path) -> None:
    first = name()
    (project / "params.yaml").write_text("# a comment\nversions: {numpy: 1.0, torch: 9.9}\nsystem: {workers: 8}\n")
    (project / "dvc.lock").write_text("changed\n")
    assert name() == first, "comments, other packages, system and dvc.lock change nothing"


@pytest.mark.parametrize("change", ["code", "compiled", "version", "param", "input"])
def test_identity__changes_with(project: Path, change: str) -> None:
    first = name()
    if change == "code":
        (project / "stages" / "a.py").write_text("x = 2\n")
    if change == "compiled":
        (project / "stages" / "a.c").write_text("int x = 2;\n")
    if change == "version":
        (project / "params.yaml").write_text("versions: {numpy: 1.1, torch: 2.0}\n")
    if change == "input":
        (project / "data" / "in").write_text("other\n")
    assert name(lr=0.2 if change == "param" else 0.1) != first


def test_identity__of_a_foreach_stage(project: Path) -> None:
    assert runs.identity("b", [], [])[1]["code"] == {"stages/a.py": files.sha256(project / "stages" / "a.py")}


def test_lease__second_process_is_refused_and_a_dead_one_is_not(project: Path) -> None:
    hold = (
        "import sys, time; from pathlib import Path; from stages.lib.core import runs\n"
        "with runs.open_run('a', None, [], []): print('held', flush=True); time.sleep(60)"
    )
    repo = str(Path(__file__).parents[2])
    holder = subprocess.Popen(
        [sys.executable, "-c", hold],
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": repo, "TUTELAGE_RUNS": str(project / "runs")},
    )
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    try:
        with pytest.raises(Refusal, match=f"already running.*process {holder.pid}"), runs.open_run("a", None, [], []):
            pass
    finally:
        holder.kill()
        holder.wait()
    with runs.open_run("a", None, [], []) as run:  # negative control: the kernel dropped the dead holder's lease
        assert run.folder.is_dir()


def test_replace__leaves_the_old_file_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(OSError, match="disk full"), files.replace(path) as temporary:
        temporary.write_text("ne")
        raise OSError("disk full")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with files.replace(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"


def test_recall__keeps_the_first_choice(tmp_path: Path) -> None:
    run = runs.Run(tmp_path, "x")
    assert run.recall("machine", {"threads": 2}) == {"threads": 2}
    assert run.recall("machine", {"threads": 8}) == {"threads": 2}


def test_roots__environment_then_dvc_then_here(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("TUTELAGE_RUNS", "TUTELAGE_RAW", "DVC_ROOT"):
        monkeypatch.delenv(variable, raising=False)
    assert files.root() == Path("data/runs") and files.raw_root() == Path("data/raw")
    monkeypatch.setenv("DVC_ROOT", "/repo")
    assert files.root() == Path("/repo/data/runs")
    monkeypatch.setenv("TUTELAGE_RAW", "/raw")
    assert files.raw_root() == Path("/raw")
