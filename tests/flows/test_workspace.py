"""Temporary workspaces and dvc.lock entries, on real git and DVC repositories."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from dvc.config import Config
from dvc.lock import make_lock

from flows import workspace
from tests.flows.tiny_project import ROOT, environment, lay_out, run


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A small project of its own."""
    return lay_out(tmp_path / "clone")


def head(root: Path) -> str:
    return run(root, "git", "rev-parse", "HEAD").strip()


def worktrees(root: Path) -> int:
    return run(root, "git", "worktree", "list", "--porcelain").count("worktree ")


def everything_of(root: Path) -> dict[str, str]:
    """Content of every file a person has there; not what git and DVC keep for themselves."""
    paths = {path.relative_to(root): path for path in root.rglob("*") if path.is_file()}
    own = {name: path for name, path in paths.items() if not {".git", "runs", "tmp", "cache"} & set(name.parts)}
    assert len(own) > 5
    return {str(name): hashlib.sha256(path.read_bytes()).hexdigest() for name, path in own.items()}


def reproduce(folder: Path, clone: Path, *targets: str) -> str:
    """`dvc repro` there as a flow runs it."""
    command = ["dvc", "--wait-for-lock", "repro", *targets]
    done = subprocess.run(
        command, cwd=folder, env=environment(clone) | workspace.variables(clone), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def experiments(clone: Path) -> list[str]:
    """Names of the experiments saved there, as git has them."""
    return run(clone, "git", "for-each-ref", "--format=%(refname:lstrip=4)", "refs/exps").split()


def ran(clone: Path) -> list[str]:
    """Commands that stages really ran, in order."""
    path = clone / "data/runs/ran"
    return path.read_text().splitlines() if path.exists() else []


def test_root__is_the_clone_of_these_flows() -> None:
    assert workspace.ROOT == ROOT


def test_clean_commit__names_what_differs_and_lets_dvc_lock_be(clone: Path) -> None:
    (clone / "dvc.lock").write_text("schema: '2.0'\n")
    (clone / "data/ignored").write_text("not git's")
    assert workspace.clean_commit(clone) == head(clone)
    (clone / "params.yaml").write_text("changed: true\n")
    run(clone, "git", "mv", "stage.py", "moved.py")
    (clone / "new file").write_text("")
    with pytest.raises(workspace.Dirty) as caught:
        workspace.clean_commit(clone)
    said = str(caught.value)
    assert said.startswith(f"3 file(s) in {clone} differ")
    assert all(f"\n  {name}\n" in said for name in ("params.yaml", "moved.py", "new file"))
    assert "git stash" in said and "dvc repro" in said and "dvc.lock" not in said


def test_clean_commit__many_files_are_counted(clone: Path) -> None:
    for number in range(13):
        (clone / f"new-{number:02d}").write_text("")
    with pytest.raises(workspace.Dirty, match=r"(?s)13 file.*new-09\n  and 3 more"):
        workspace.clean_commit(clone)


def test_temporary__has_what_was_asked_for_and_leaves_nothing(clone: Path) -> None:
    (clone / "params.yaml").write_text("# my unsaved work\n")
    (clone / "notes").write_text("mine")
    before = everything_of(clone)
    params = (ROOT / "params.yaml").read_text().replace("distill: hard", "distill: soft")
    lock = {"raw": {"cmd": "x", "outs": [{"path": "data/copy"}]}}
    with workspace.temporary(clone, "HEAD", params, lock, "soft / seed 1") as folder:
        assert folder.parent == clone / "data/runs/workspaces" and folder.name.startswith("soft-seed-1-")
        assert head(folder) == head(clone)
        assert (folder / "params.yaml").read_text() == params
        assert workspace.entries(folder) == lock
        assert not (folder / "notes").exists()
        assert worktrees(clone) == 2
    assert not folder.exists() and worktrees(clone) == 1
    assert everything_of(clone) == before
    assert [path.name for path in (clone / "data/runs/workspaces").iterdir()] == [".making"]


def test_temporary__is_removed_when_the_work_fails(clone: Path) -> None:
    with pytest.raises(ZeroDivisionError), workspace.temporary(clone, "HEAD", None, None, "bad") as folder:
        raise ZeroDivisionError
    assert not folder.exists() and worktrees(clone) == 1


def test_temporary__shares_cache_remotes_settings_and_runs(clone: Path) -> None:
    (clone / ".dvc/config.local").write_text(
        "[cache]\n    dir = ../../elsewhere\n['remote \"mine\"']\n    url = ../mine\n    verify = true\n"
        "['remote \"far\"']\n    url = s3://bucket/prefix\n    access_key_id = hidden\n"
    )
    with workspace.temporary(clone, "HEAD", None, None, "shared") as folder:
        settings = Config(str(folder / ".dvc"))
        remotes = settings["remote"]
        assert str(settings["cache"]["dir"]) == str(clone.parent / "elsewhere")
        assert {name: str(remote["url"]) for name, remote in remotes.items()} == {
            "storage": str(clone.parent / "storage"),
            "mine": str(clone / "mine"),
            "far": "s3://bucket/prefix",
        }
        assert remotes["far"]["access_key_id"] == "hidden"
        assert (folder / ".dvc/config.local").stat().st_mode & 0o77 == 0
        reproduce(folder, clone)
        assert run(folder, "git", "status", "--porcelain") == "?? dvc.lock\n"
    assert (clone.parent / "elsewhere/files/md5").is_dir()
    assert not (clone / ".dvc/cache").exists()
    assert len(ran(clone)) == 2
    reproduce(clone, clone)
    assert len(ran(clone)) == 2, "the clone finds in the shared cache what the workspace ran"


def test_variables__absolute_and_the_environment_wins(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TUTELAGE_RUNS", raising=False)
    monkeypatch.setenv("TUTELAGE_RAW", "/big/disk")
    assert workspace.variables(clone) == {"TUTELAGE_RUNS": str(clone / "data/runs"), "TUTELAGE_RAW": "/big/disk"}


def test_temporary__several_at_once(clone: Path) -> None:
    """From threads and from other processes: git's own locks would make some of these fail."""
    script = (
        "import sys, pathlib; from flows import workspace\n"
        "with workspace.temporary(pathlib.Path(sys.argv[1]), 'HEAD', None, None, 'other') as folder:\n"
        "    assert (folder / 'dvc.yaml').exists()"
    )
    others = [subprocess.Popen([sys.executable, "-c", script, str(clone)], cwd=ROOT) for _ in range(2)]
    together = threading.Barrier(6, timeout=60)

    def one(number: int) -> Path:
        with workspace.temporary(clone, "HEAD", f"number: {number}\n", None, "same") as folder:
            together.wait()
            assert (folder / "params.yaml").read_text() == f"number: {number}\n"
            return folder

    with ThreadPoolExecutor(6) as pool:
        folders = set(pool.map(one, range(6)))
    assert len(folders) == 6 and not any(folder.exists() for folder in folders)
    assert [other.wait(60) for other in others] == [0, 0]
    assert worktrees(clone) == 1


def test_temporary__what_a_kill_left_is_removed_by_the_next_and_the_living_stay(clone: Path) -> None:
    script = (
        "import sys, time, pathlib; from flows import workspace\n"
        "with workspace.temporary(pathlib.Path(sys.argv[1]), 'HEAD', None, None, 'victim') as folder:\n"
        "    print(folder, flush=True); time.sleep(600)"
    )
    victim = subprocess.Popen([sys.executable, "-c", script, str(clone)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert victim.stdout
    left = Path(victim.stdout.readline().strip())
    with workspace.temporary(clone, "HEAD", None, None, "living") as living:
        assert left.exists(), "its maker lives"
        os.kill(victim.pid, signal.SIGKILL)
        victim.wait(10)
        victim.stdout.close()
        half = clone / "data/runs/workspaces/half-made-0000"
        half.mkdir()
        with workspace.temporary(clone, "HEAD", None, None, "next"):
            assert not left.exists() and not half.exists() and living.exists()
            assert worktrees(clone) == 3
    assert worktrees(clone) == 1


def test_resolve__fetches_a_sha_from_origin_and_says_what_it_lacks(clone: Path, tmp_path: Path) -> None:
    run(tmp_path, "git", "clone", "--quiet", str(clone), "worker")
    worker = tmp_path / "worker"
    (clone / "new").write_text("later")
    run(clone, "git", "add", "new")
    run(clone, "git", "commit", "--quiet", "-m", "later")
    with workspace.temporary(worker, head(clone), None, None, "fetched") as folder:
        assert (folder / "new").read_text() == "later"
    with pytest.raises(workspace.Unreachable, match=r"is neither in .* nor at its origin.*git push"):
        workspace.resolve(worker, "0123456789" * 4)
    with pytest.raises(workspace.Unreachable, match="'no-such-branch' is no commit"):
        workspace.resolve(worker, "no-such-branch")
    with pytest.raises(workspace.Unreachable, match="is no commit"):
        workspace.resolve(worker, "--all")


def test_merge__keeps_others_writes_as_dvc_does_and_waits_for_it(clone: Path) -> None:
    assert workspace.entries(clone) == {}
    reproduce(clone, clone)
    written = (clone / "dvc.lock").read_text()
    entries = workspace.entries(clone)
    assert set(entries) == {"raw", "evaluate@student", "evaluate@finetuned"}
    workspace.merge(clone, {"raw": entries["raw"]})
    assert (clone / "dvc.lock").read_text() == written
    (clone / "dvc.lock").unlink()
    for name in ("raw", "evaluate@student", "evaluate@finetuned"):
        workspace.merge(clone, {name: entries[name]})
    assert workspace.entries(clone) == entries
    assert reproduce(clone, clone).count("didn't change, skipping") == 3

    held = make_lock(str(clone / ".dvc/tmp/lock"))
    held.lock()
    writer = threading.Thread(target=workspace.merge, args=(clone, {"raw": {"cmd": "other"}}))
    writer.start()
    time.sleep(0.3)
    assert "other" not in (clone / "dvc.lock").read_text()
    held.unlock()
    writer.join(30)
    assert workspace.entries(clone) == entries | {"raw": {"cmd": "other"}}


def test_merge__several_at_once_lose_nothing(clone: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: workspace.merge(clone, {f"s{number}": {"cmd": str(number)}}), range(4)))
    assert set(workspace.entries(clone)) == {f"s{number}" for number in range(4)}


@pytest.fixture
def soft(softened: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(softened, tmp_path / "clone", symlinks=True))


@pytest.fixture(scope="module")
def softened(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone, all of it run as committed and edited since; beside it an experiment of which one stage was not run: `soft`."""
    clone = lay_out(tmp_path_factory.mktemp("softened") / "clone")
    run(clone, "dvc", "repro")
    (clone / "notes").write_text("mine")
    before = everything_of(clone)
    with workspace.temporary(clone, "HEAD", softly(), workspace.entries(clone), "soft") as folder:
        reproduce(folder, clone, "evaluate@student")
        (folder / "data/metrics/student.json").unlink()  # another machine ran it: `dvc exp save` would refuse
        saved = workspace.save_experiment(folder, "soft", "distil softly", ["raw", "evaluate@student"])
        assert saved == "soft"
    assert everything_of(clone) == before
    return clone


def softly() -> str:
    """params.yaml with another distillation."""
    return (ROOT / "params.yaml").read_text().replace("distill: hard", "distill: soft")


def test_save_experiment__dvc_shows_it_with_its_own_metrics_alone(soft: Path) -> None:
    assert run(soft, "dvc", "exp", "list", "--name-only").split() == ["soft"]
    shown = json.loads(run(soft, "dvc", "exp", "show", "--json"))
    (experiment,) = shown[1]["experiments"]
    data = experiment["revs"][0]["data"]
    assert experiment["name"] == "soft" and data["params"]["params.yaml"]["data"]["train"]["distill"] == "soft"
    assert data["metrics"]["data/metrics/student.json"]["data"] == {"top1": 60, "images": 10}
    assert "data" not in data["metrics"]["data/metrics/finetuned.json"], "that is of other parameters"
    assert "60" in run(soft, "dvc", "exp", "diff", "main", "soft")


def test_save_experiment__dvc_applies_branches_and_removes_it(soft: Path) -> None:
    with workspace.temporary(soft, "HEAD", softly(), workspace.entries(soft), "whole") as folder:
        reproduce(folder, soft)
        assert workspace.save_experiment(folder, "whole", "all of it") == "whole"
    run(soft, "dvc", "exp", "branch", "soft", "from-soft")
    assert run(soft, "git", "show", "from-soft:params.yaml") == softly()
    run(soft, "dvc", "exp", "apply", "whole")
    assert (soft / "params.yaml").read_text() == softly() and (soft / "notes").read_text() == "mine"
    metrics = soft / "data/metrics"
    assert [json.loads((metrics / f"{name}.json").read_text())["top1"] for name in ("student", "finetuned")] == [60, 60]
    assert "didn't change" in reproduce(soft, soft) and len(ran(soft)) == 4
    done = subprocess.run(
        ["dvc", "exp", "apply", "soft"], cwd=soft, env=environment(soft), capture_output=True, text=True
    )
    assert "Checkout failed" in done.stderr and "finetuned.json" in done.stderr  # DVC misses what was not run, last
    assert [path.name for path in metrics.iterdir()] == ["student.json"]
    run(soft, "dvc", "exp", "remove", "soft")
    assert experiments(soft) == ["whole"]


def test_save_experiment__a_taken_name_gets_a_number_and_a_bad_one_is_refused(soft: Path) -> None:
    with workspace.temporary(soft, "HEAD", softly(), workspace.entries(soft), "again") as folder:
        assert workspace.save_experiment(folder, "again", "one") == "again"
        other_order = dict(reversed(workspace.entries(folder).items()))
        (folder / "dvc.lock").unlink()
        workspace.merge(folder, other_order)
        assert workspace.save_experiment(folder, "again", "the very same, run in another order") == "again"
        assert workspace.save_experiment(folder, "soft", "another dvc.lock") == "soft-2"
        (folder / "params.yaml").write_text("other: true\n")
        assert workspace.save_experiment(folder, "soft", "other params") == "soft-3"
        for name in ("a..b", "a/b", "", "a b"):
            with pytest.raises(workspace.WorkspaceError, match="can't name an experiment"):
                workspace.save_experiment(folder, name, "bad")


def test_save_experiment__without_a_git_identity(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")
    for key, value in (("user.useConfigOnly", "true"), ("user.name", ""), ("user.email", "")):
        run(clone, "git", "config", key, value)
    with workspace.temporary(clone, "HEAD", None, {}, "nobody") as folder:
        assert workspace.save_experiment(folder, "nobody", "x") == "nobody"
    ref = run(clone, "git", "for-each-ref", "--format=%(authorname)", "refs/exps").strip()
    assert ref == "Tutelage"


def test_resolve__the_password_in_an_address_of_origin_is_not_said(clone: Path) -> None:
    """git repeats what it cannot reach (of https alone, newer ones leave the password out), and errors go to the server's pages."""
    address = "/nowhere/x.git?token=pl4nted"
    run(clone, "git", "config", "remote.origin.url", address)
    plain = subprocess.run(["git", "fetch", "origin"], cwd=clone, capture_output=True, text=True)
    assert "pl4nted" in plain.stderr  # the control
    with pytest.raises(workspace.Unreachable, match=r"token=\*\*\*") as caught:
        workspace.resolve(clone, "0" * 39 + "1")
    assert "pl4nted" not in str(caught.value)
