"""dvc.yaml's artifacts: what gto registers and DVC's model registry brings."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dvc.repo import Repo

from tests.closure import YML
from tests.workspace import ROOT, environment

MODELS = {"teacher", "mae", "student", "finetuned"}


def command(folder: Path, *words: str) -> str:
    done = subprocess.run([*words], cwd=folder, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git and DVC repository whose export of the student is made by a stage of one line."""
    folder = tmp_path_factory.mktemp("registry")
    command(folder, "git", "init", "-q")
    for key, value in (("user.email", "test@example.org"), ("user.name", "Test")):
        command(folder, "git", "config", key, value)
    command(folder, sys.executable, "-m", "dvc", "init", "-q")
    whole = YML.load(ROOT / "dvc.yaml")
    making = "mkdir -p data/exported/student && echo {} > data/exported/student/config.json"
    small = {
        "stages": {"export": {"cmd": making, "outs": ["data/exported/student"]}},
        "artifacts": {"student": dict(whole["artifacts"]["student"])},
    }
    (folder / "dvc.yaml").write_text(json.dumps(small))
    (folder / ".gitignore").write_text("/data\n")
    command(folder, sys.executable, "-m", "dvc", "repro", "-q")
    command(folder, "git", "add", "-A")
    command(folder, "git", "commit", "-qm", "exported")
    return folder


def test_artifacts__every_exported_model_is_one(repository: Path, tmp_path: Path) -> None:
    """Read by DVC itself, from copies: a checkout may keep its dvc.lock out of git, which DVC refuses to look past."""
    for name in (".dvc", ".git"):
        shutil.copytree(repository / name, tmp_path / name)
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path / name)
    with Repo(str(tmp_path)) as repo:
        found = repo.artifacts.read()["dvc.yaml"]
        outs = {out.def_path for out in repo.index.outs}
    assert set(found) == MODELS
    for name, artifact in found.items():
        assert artifact.path == f"data/exported/{name}" and artifact.path in outs
        assert artifact.type == "model" and artifact.desc and "timm" in artifact.labels


def test_artifacts__gto_registers_a_version_and_dvc_brings_it(repository: Path, tmp_path: Path) -> None:
    gto = str(Path(sys.executable).parent / "gto")
    command(repository, gto, "register", "student", "--version", "v1.0.0")
    shown = json.loads(command(repository, gto, "show", "--json"))
    assert shown["student"]["version"] == "v1.0.0"
    out = tmp_path / "student"
    command(repository, sys.executable, "-m", "dvc", "artifacts", "get", str(repository), "student", "-o", str(out))
    assert (out / "config.json").read_text() == "{}\n"
