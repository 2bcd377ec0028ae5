"""A small project folder with real shards, for tests that run stages as users do: in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
SET = "digits-7-9"  # the smaller of the embedded sets: 540 images of three classes
THREADS = {"OMP_NUM_THREADS": "1"}


def edit(folder: Path, changes: dict[str, Any]) -> None:
    """Set dotted keys of the folder's params.yaml."""
    yaml = YAML()
    path = folder / "params.yaml"
    values = yaml.load(path)
    for key, value in changes.items():
        *blocks, last = key.split(".")
        place = values
        for block in blocks:
            place = place[block]
        place[last] = value
    with path.open("w") as file:
        yaml.dump(values, file)


def environment() -> dict[str, str]:
    """Runs and raw data lie in the folder a stage runs in, whatever this process was started with."""
    kept = {key: value for key, value in os.environ.items() if key not in ("TUTELAGE_RUNS", "TUTELAGE_RAW", "DVC_ROOT")}
    return {**kept, **THREADS, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def start(folder: Path, *command: str, **variables: str) -> "subprocess.Popen[str]":
    """`python -m <command>` in the folder, output piped; with these environment variables more."""
    return subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=environment() | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def workers(launcher: int) -> list[int]:
    """Processes that a launcher started, oldest first."""
    return sorted(
        int(child) for path in Path(f"/proc/{launcher}/task").glob("*/children") for child in path.read_text().split()
    )


def run(folder: Path, *command: str) -> str:
    """`python -m <command>` to its end; its output. Fails the test on any exit code but 0."""
    process = start(folder, *command)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def lay_out(folder: Path) -> None:
    """The repository's code and parameters, shrunk: one small set, tiny models, few epochs, one thread."""
    for name in ("stages", "dvc.yaml", "presets"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "data").mkdir()
    (folder / "data" / "expectations").symlink_to(ROOT / "data" / "expectations")
    (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    edit(
        folder,
        {
            "sets.main": SET,
            "sets.transfer": ["digits-0-6"],
            "system.threads": 1,
            "system.checkpoint_seconds": 0.0,
            "system.log_seconds": 0.0001,
            "system.log_steps": 1,
            "train.init": "scratch",
            "train.views.epochs": 4,
            "train.views.batch_size": 96,
            "train.views.mix_group": 32,
            "train.views.repeats": 3,
            "train.schedule.warmup_epochs": 1,
            "train.ema_decay": 0.9,
            "teacher.views.epochs": 2,
            "teacher.schedule.warmup_epochs": 0,
            "pretrain.epochs": 2,
            "pretrain.schedule.warmup_epochs": 0,
        },
    )


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose small set is ingested and sharded; tests that write into data/models copy nothing back."""
    folder = tmp_path_factory.mktemp("project")
    lay_out(folder)
    for stage in ("scan", "ingest", "shard"):
        run(folder, f"stages.{stage}", SET)
    return folder
