"""A git and DVC repository of two stages that take no time, with the real params.yaml: for tests of workspaces and experiments."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

STAGE = """
import os, sys, time
from pathlib import Path
from ruamel.yaml import YAML
train = YAML(typ="safe").load(Path("params.yaml"))["train"]
Path("data/metrics").mkdir(parents=True, exist_ok=True)
(Path(os.environ["TUTELAGE_RUNS"]) / "ran").open("a").write(" ".join(sys.argv[1:]) + "\\n")
if train["views"]["seed"] == 13:
    sys.exit("thirteen brings bad luck")
time.sleep(float(os.environ.get("TINY_SECONDS", "0")))
top1 = {"none": 50, "soft": 60, "hard": 70}[train["distill"]] + train["views"]["seed"]
Path(sys.argv[1]).write_text('{"top1": %d, "images": 10}\\n' % top1)
"""

DVC_YAML = """
stages:
  raw:
    cmd: cp raw.txt data/copy
    deps: [raw.txt]
    outs:
      - data/copy
  evaluate:
    foreach: [student, finetuned]
    do:
      cmd: python stage.py data/metrics/${item}.json
      deps: [stage.py, data/copy]
      params: [train.distill, train.views]
      metrics:
        - data/metrics/${item}.json
"""


def environment(root: Path) -> dict[str, str]:
    """As users have it: this Python first, runs in the clone."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "TUTELAGE_RUNS": str(root / "data/runs"), "DVC_NO_ANALYTICS": "1"}


def run(root: Path, *command: str) -> str:
    """A command's output; fails the test where it fails."""
    done = subprocess.run(command, cwd=root, env=environment(root), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def lay_out(root: Path) -> Path:
    """A clone with one commit, nothing run yet; its remote is given relative to .dvc, as people do."""
    root.mkdir(parents=True)
    run(root, "git", "init", "--quiet", "--initial-branch", "main")
    for key, value in (("user.name", "Tester"), ("user.email", "tester@localhost")):
        run(root, "git", "config", key, value)
    (root / ".dvc").mkdir()
    (root / "data" / "runs").mkdir(parents=True)
    files = {
        ".dvc/config": "[core]\n    analytics = false\n    autostage = false\n    remote = storage\n"
        "['remote \"storage\"']\n    url = ../../storage\n",
        ".dvc/.gitignore": "/config.local\n/tmp\n/cache\n",
        ".dvcignore": "/data/runs\n",
        ".gitignore": "/data/*\n!/data/README\n",
        "data/README": "kept by git",
        "raw.txt": "images",
        "dvc.yaml": DVC_YAML,
        "stage.py": STAGE,
    }
    for name, text in files.items():
        (root / name).write_text(text)
    shutil.copy(ROOT / "params.yaml", root / "params.yaml")
    run(root, "git", "add", ".")
    run(root, "git", "commit", "--quiet", "-m", "tiny")
    return root
