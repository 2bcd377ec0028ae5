"""Several hosts on one machine: clones of this repository with workers of their own, an S3 bucket and a server between them.

Each clone has run folders, raw data and a DVC cache of its own, so what one of them has of another went through the bucket.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from flows import service
from tests import s3, workspace
from tests.e2e.postgres import Postgres
from tests.e2e.server import BAD, Server, clean, running, until

ROOT = Path(__file__).parents[2]
IDENTITY = ("-c", "user.name=Tester", "-c", "user.email=tester@localhost")
NEVER = "0 0 29 2 *"
STOP_SECONDS = 90.0
QUICK = {
    "train.views.epochs": 4,
    "train.schedule.warmup_epochs": 1,
    "teacher.views.epochs": 3,
    "teacher.schedule.warmup_epochs": 0,
    "pretrain.epochs": 3,
    "pretrain.schedule.warmup_epochs": 0,
    "finetune.views.epochs": 2,
    "finetune.schedule.warmup_epochs": 0,
    "transfer.views.epochs": 2,
    "transfer.schedule.warmup_epochs": 0,
    "system.threads": 1,
}
"""The whole pipeline in half a minute of training."""


class Fleet:
    """An origin repository, its clones, their workers, and the server they talk to."""

    def __init__(self, folder: Path, server: Server, bucket: s3.Server) -> None:
        """folder: for everything the fleet writes. The S3 server must be the one that AWS_* names."""
        self.folder, self.server, self.bucket = folder, server, bucket
        self.origin = folder / "origin"
        self.workers: list[subprocess.Popen[bytes]] = []

    def lay_out(self, changes: Mapping[str, Any], cron: str = NEVER) -> None:
        """The origin: this repository as it lies here, quick parameters, the bucket as DVC's remote, schedules that suit a test."""
        copy(self.origin)
        workspace.edit(self.origin, dict(changes))
        config = self.origin / ".dvc/config"
        ours = config.read_text().replace("[core]\n", "[core]\n    remote = team\n")
        config.write_text(f"{ours}['remote \"team\"']\n    url = {self.bucket.uri}/dvc\n")
        self._edit_deployments(cron)
        self.commit("a small pipeline on a fleet")

    def _edit_deployments(self, cron: str) -> None:
        yaml, path = YAML(), self.origin / "prefect.yaml"
        content = yaml.load(path)
        there = [one for one in content["deployments"] if (self.origin / one["entrypoint"].partition(":")[0]).exists()]
        content["deployments"] = there
        for deployment in there:
            for schedule in deployment.get("schedules", []):
                schedule["cron"] = cron if deployment["name"] == "nightly" else NEVER
            if deployment["name"] == "nightly":
                deployment["parameters"]["across"] = True
        with path.open("w") as file:
            yaml.dump(content, file)

    def commit(self, message: str) -> str:
        """Commit all of the origin; the commit's sha."""
        git(self.origin, "add", "--all")
        git(self.origin, "commit", "--quiet", "--message", message)
        return git(self.origin, "rev-parse", "HEAD")

    def change(self, clone: Path, changes: Mapping[str, Any]) -> None:
        """Commit other parameters in the origin, and bring the clone there."""
        workspace.edit(self.origin, dict(changes))
        self.commit(f"{changes}")
        git(clone, "pull", "--quiet")

    def clone(self, name: str) -> Path:
        """One more host."""
        folder = self.folder / name
        git(self.folder, "clone", "--quiet", str(self.origin), name)
        (folder / ".venv/bin").mkdir(parents=True)  # a folder: git would list a link
        (folder / ".venv/bin/python").symlink_to(sys.executable)
        return folder

    def environment(self, **more: str) -> dict[str, str]:
        """Of every process of the fleet: AWS_* is inherited."""
        ours = {"PREFECT_API_URL": f"{self.server.url}/api", "TUTELAGE_DEVICE_LOCKS": str(self.folder / "locks")}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {**clean(), "PATH": path, "DVC_NO_ANALYTICS": "1", **workspace.THREADS, **ours, **more}

    def deploy(self, clone: Path, **more: str) -> None:
        """`make deploy` in the clone."""
        self.run(clone, "flows.deploy", **more)

    def worker(self, clone: Path, pool: str, *arguments: str, **more: str) -> "subprocess.Popen[bytes]":
        """`make worker` in the clone."""
        command, parent = [sys.executable, "-m", "flows.worker", "--pool", pool, *arguments], os.getpid()
        with (self.folder / f"{clone.name}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=clone,
                env=self.environment(**more),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=lambda: service.end_with_parent(parent, signal.SIGTERM),
            )
        self.workers.append(process)
        return process

    def run(self, folder: Path, *words: str, **more: str) -> str:
        """`python -m <words>` as somebody at a host's terminal; its output. Fails the test where it fails."""
        done = subprocess.run(
            [sys.executable, "-m", *words],
            cwd=folder,
            env=self.environment(**more),
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def said(self) -> str:
        """What all workers and their runs said: for the message of a test that fails."""
        logs = [*self.folder.glob("*.log"), *self.folder.glob("*/data/runs/prefect/*.log")]
        return "\n".join(f"==> {log}\n{log.read_text(errors='replace')[-8000:]}" for log in logs)

    def complaints(self) -> list[str]:
        """Lines of the workers' logs that say something went wrong."""
        lines = [line for log in self.folder.glob("*/data/runs/prefect/*.log") for line in log.read_text().splitlines()]
        return [line for line in lines if any(mark in line for mark in BAD)]

    def stages(self, run: str) -> dict[str, list[dict[str, Any]]]:
        """Stage -> its runs on workers for a run of the pipeline, oldest first."""
        found: dict[str, list[dict[str, Any]]] = {}
        for one in self.server.post("/flow_runs/filter", flows={"name": {"any_": ["stage"]}}, sort="START_TIME_ASC"):
            if one["parameters"]["order"]["coordinator"] == run:
                found.setdefault(one["name"], []).append(one)
        return found

    def lines(self, run: str) -> list[str]:
        """The log of a flow run, as the server has it."""
        found: list[str] = []
        while True:
            asked = {"logs": {"flow_run_id": {"any_": [run]}}, "offset": len(found), "sort": "TIMESTAMP_ASC"}
            page = self.server.post("/logs/filter", **asked)
            found += [line["message"] for line in page]
            if len(page) < 200:
                return found

    def ends(self, run: str, seconds: float) -> str:
        """Name of the state a flow run ends in; fails the test when it takes longer."""
        over = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")
        until(lambda: self.server.get(f"/flow_runs/{run}")["state_type"] in over, seconds, self.said())
        return self.server.state(run)

    def processes(self, *words: str) -> list[int]:
        """Processes of the fleet, its own test aside; with `words` only those whose command line has them all."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                where = (folder / "environ").read_bytes().decode(errors="replace") + str((folder / "cwd").readlink())
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if str(self.folder) in where and all(word in command for word in words):
                    found.append(int(folder.name))
        return [pid for pid in found if pid != os.getpid()]

    def checkpoints(self, stage: str) -> set[Path]:
        """Run folders of a stage, on whichever host, that hold a checkpoint."""
        return {path.parents[1] for path in self.folder.glob(f"*/data/runs/{stage}/*/checkpoints/[!.]*")}

    def worktrees(self) -> list[str]:
        """Temporary workspaces that are left in any clone."""
        left = [str(path) for path in self.folder.glob("*/data/runs/workspaces/*") if path.name != ".making"]
        for clone in [path.parent for path in self.folder.glob("*/.git")]:
            left += git(clone, "worktree", "list").splitlines()[1:]
        return left

    def stop(self) -> None:
        """Stop the workers as their hosts' people do, and wait."""
        for process in self.workers:
            process.send_signal(signal.SIGTERM)
        for process in self.workers:
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
        self.workers.clear()


def copy(folder: Path) -> None:
    """This repository as it lies here (changes that are not committed too) in a git repository of one commit."""
    listed = git(ROOT, "ls-files", "--cached", "--others", "--exclude-standard").splitlines()
    for name in listed:
        if (ROOT / name).is_file() and name != "dvc.lock":  # what somebody's `make demo` made is in no remote
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    git(folder, "init", "--quiet", "--initial-branch", "main")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "as it lies here")


def git(folder: Path, *words: str) -> str:
    """What git prints; fails the test where it fails."""
    done = subprocess.run(["git", *IDENTITY, *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@contextlib.contextmanager
def serving(folder: Path, home: Path, postgres: Postgres, bucket: s3.Server) -> Iterator[Fleet]:
    """A fleet without hosts yet, for a `with`; home: the server's folder."""
    with running(home, PREFECT_API_DATABASE_CONNECTION_URL=postgres.url) as server:
        one = Fleet(folder, server, bucket)
        try:
            yield one
        finally:
            one.stop()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres, _s3_server: Any) -> Iterator[Fleet]:
    """A fleet without hosts yet, for the tests of one file; its server runs on PostgreSQL."""
    folders = tmp_path_factory.mktemp("fleet"), tmp_path_factory.mktemp("server")
    with pytest.MonkeyPatch.context() as patch, serving(*folders, postgres, s3.bucket(_s3_server, patch)) as one:
        yield one
