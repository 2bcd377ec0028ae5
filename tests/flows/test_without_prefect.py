"""DVC and the stages need no Prefect, and a flow needs nothing heavy."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workspace import SET, environment, lay_out

ROOT = Path(__file__).resolve().parents[2]
FORBIDDEN = """
import sys
class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("prefect", "fastapi", "sqlalchemy"):
            raise ModuleNotFoundError(f"{name} is not installed", name=name)
sys.meta_path.insert(0, Forbidden())
"""


@pytest.fixture
def without_prefect(tmp_path: Path) -> dict[str, str]:
    """An environment in which no Python finds Prefect."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(FORBIDDEN)
    return environment() | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "DVC_NO_ANALYTICS": "1"}


@pytest.mark.e2e
def test_dvc_repro__runs_where_prefect_is_not_installed(tmp_path: Path, without_prefect: dict[str, str]) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    lay_out(folder)
    python = [sys.executable, "-m"]
    control = subprocess.run(
        [*python, "flows.pipeline"], cwd=folder, env=without_prefect, capture_output=True, text=True
    )
    assert control.returncode and "prefect is not installed" in control.stderr
    for command in (["dvc", "init", "-q", "--no-scm"], ["dvc", "repro", f"validate-shards@{SET}"]):
        done = subprocess.run([*python, *command], cwd=folder, env=without_prefect, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / f"data/gates/shards-{SET}.json").is_file()


def test_flows__import_nothing_heavy() -> None:
    """A run starts by importing its flow: Prefect and what reads files, not what trains or draws."""
    code = (
        "import sys, flows.pipeline, flows.stage, flows.refresh, flows.experiment\n"
        "print(sorted({'torch', 'timm', 'pandas', 'great_expectations', 'matplotlib', 'dvc.repo'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
