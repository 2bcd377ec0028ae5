"""Working trees that runs get to themselves, so that nobody's own files are touched: for flows/pipeline, stage and experiment.

A temporary workspace is a git worktree at one commit under <clone>/data/runs/workspaces, which git and DVC both ignore. It shares
the clone's objects and refs, DVC cache, remotes, run folders and raw data. Who made it holds a lock that the kernel drops with the
process, so the next one to be made tells what a killed process left, and removes it.
"""

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from dvc.config import Config
from dvc.config import merge as merge_config
from dvc.config_schema import RelPath
from dvc.lock import make_lock
from dvc.utils.serialize import dump_yaml, load_yaml

from stages.lib.params.credentials import masked

ROOT = Path(__file__).resolve().parents[1]
"""The clone that the running flows lie in."""
WORKSPACES = Path("data/runs/workspaces")
LOCK, PARAMS = "dvc.lock", "params.yaml"
NAMED = 10
"""Changed files that an error names; of more it says how many."""
FETCH_SECONDS = 300.0
NOBODY = {"NAME": "Tutelage", "EMAIL": "tutelage@localhost"}
"""Who saves an experiment where git knows no name: a worker's service account."""
ELSEWHERE = (
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_COMMON_DIR",
    "GIT_OBJECT_DIRECTORY",
    "GIT_NAMESPACE",
    "GIT_PREFIX",
)
"""What a git hook sets: with these git would look at another repository than the folder it runs in."""
NOT_THERE = "0" * 40
"""Git's old value of a ref that must not exist yet."""


class WorkspaceError(Exception):
    """A working tree that can't be used or made; the message says why and what to do."""


class Dirty(WorkspaceError):
    """Files differ from the commit that a run would be attributed to."""


class Unreachable(WorkspaceError):
    """A commit that neither this clone nor its origin has."""


def clean_commit(root: Path) -> str:
    """Full sha of HEAD. Raises Dirty where a tracked or untracked file differs from it; dvc.lock may: a run itself rewrites it."""
    changed = [name for name in _changed(root) if name != LOCK]
    if changed:
        more = f"\n  and {len(changed) - NAMED} more" if len(changed) > NAMED else ""
        names = "\n".join(f"  {name}" for name in changed[:NAMED])
        raise Dirty(
            f"{len(changed)} file(s) in {root} differ from the last commit, so nobody could say later what ran:\n{names}{more}\n"
            "Commit or stash them (`git stash -u`) and start again; `dvc repro` runs work in progress as it is."
        )
    return resolve(root, "HEAD")


def resolve(root: Path, revision: str) -> str:
    """Full sha of a commit by any name git knows; a sha this clone has not got is fetched from origin. Raises Unreachable."""
    for fetch in ([], ["fetch", "--quiet", "origin", revision], ["fetch", "--quiet", "origin"]):
        if fetch:
            with _held(root):  # two fetches at once would fail on each other's locks
                failure = _try_git(root, *fetch, seconds=FETCH_SECONDS).stderr.strip()
        found = _try_git(root, "rev-parse", "--quiet", "--verify", "--end-of-options", f"{revision}^{{commit}}")
        if found.returncode == 0:
            return found.stdout.strip()
        if not re.fullmatch(r"[0-9a-f]{40}", revision):  # a name means what it means here, not what it means elsewhere
            raise Unreachable(
                f"{revision!r} is no commit in {root}; give a branch, a tag or a sha that `git log --all` shows"
            )
    raise Unreachable(
        f"Commit {revision} is neither in {root} nor at its origin{f' ({failure})' if failure else ''}. Push it (`git push`), "
        "so that every worker can fetch it, and start again."
    )


def file_at(root: Path, commit: str, path: str) -> str:
    """Text of a committed file. Raises WorkspaceError where the commit has none."""
    return _git(root, "show", f"{commit}:{path}", raw=True)


@contextlib.contextmanager
def temporary(root: Path, commit: str, params: str | None, lock: Mapping[str, Any] | None, name: str) -> Iterator[Path]:
    """A working tree of `root` at `commit`, gone at the end with all that is in it but the caches, runs and raw data it shares.

    params: text of its params.yaml; None: the commit's. lock: stages' entries for its dvc.lock; None: the commit's file, if any.
    Raises Unreachable.
    """
    sha = resolve(root, commit)
    folder = root / WORKSPACES / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', name)[:80]}-{secrets.token_hex(4)}"
    with contextlib.ExitStack() as stack:
        with _held(root):
            _sweep(root)
            stack.enter_context(_lease(folder))
            stack.callback(_remove_held, root, folder)
            _git(root, "-c", "core.hooksPath=/dev/null", "worktree", "add", "--detach", "--quiet", str(folder), sha)
        _share(root, folder)
        if params is not None:
            (folder / PARAMS).write_text(params, encoding="utf-8")
        if lock is not None:
            dump_yaml(str(folder / LOCK), {"schema": "2.0", "stages": dict(lock)})
        yield folder


def variables(root: Path) -> dict[str, str]:
    """Environment of a command in a temporary workspace: run folders (checkpoints) and raw data are the clone's own."""
    here = {"TUTELAGE_RUNS": "data/runs", "TUTELAGE_RAW": "data/raw"}
    return {name: str((root / os.environ.get(name, folder)).absolute()) for name, folder in here.items()}


def entries(root: Path) -> dict[str, Any]:
    """What dvc.lock says of each stage; waits while a DVC process may be writing it."""
    with _dvc_lock(root):
        return dict(_read_lock(root).get("stages", {}))


def merge(root: Path, new: Mapping[str, Any]) -> None:
    """Put stages' entries into dvc.lock, replacing theirs and keeping all others; whole or not at all, under DVC's own lock."""
    with _dvc_lock(root):
        content = _read_lock(root)
        content["stages"] = {**content.get("stages", {}), **new}
        temporary_file = root / ".dvc" / "tmp" / f"{LOCK}.{os.getpid()}.{secrets.token_hex(4)}"
        try:
            dump_yaml(str(temporary_file), {"schema": "2.0", **content})
            temporary_file.replace(root / LOCK)
        finally:
            temporary_file.unlink(missing_ok=True)


def save_experiment(worktree: Path, name: str, message: str, stages: Collection[str] | None = None) -> str:
    """Save a workspace's params.yaml and dvc.lock as a DVC experiment of its commit; returns the name it got.

    Unlike `dvc exp save` it needs no output here: they may lie in other workers' caches. stages: those whose dvc.lock entries are
    the experiment's; None: all. A name that is taken gets a number, unless the very same is saved under it. Raises WorkspaceError.
    (`dvc exp apply` of one without all stages ends with "Checkout failed" for what was not run, and has applied the rest.)
    """
    baseline = resolve(worktree, "HEAD")
    prefix = f"refs/exps/{baseline[:2]}/{baseline[2:]}/"
    if "/" in name or _try_git(worktree, "check-ref-format", prefix + name).returncode:
        raise WorkspaceError(f"{name!r} can't name an experiment; use letters, digits, '-', '_' and '.'")
    tree = _tree(worktree, stages)
    commit = _git(worktree, "commit-tree", tree, "-p", baseline, "-m", message, identity=True)
    number = 1
    while True:
        wanted = name if number == 1 else f"{name}-{number}"
        if _try_git(worktree, "update-ref", prefix + wanted, commit, NOT_THERE).returncode == 0:
            return wanted
        saved = _try_git(worktree, "rev-parse", "--quiet", "--verify", f"{prefix}{wanted}^{{tree}}").stdout.strip()
        if saved == tree:
            return wanted
        if not saved:  # refused, though nobody has the name: a full disk, no permission
            raise WorkspaceError(_try_git(worktree, "update-ref", prefix + wanted, commit, NOT_THERE).stderr.strip())
        number += 1


def _tree(worktree: Path, stages: Collection[str] | None) -> str:
    """Git's id of the commit's files with this params.yaml and dvc.lock; made in an index of its own."""
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder) / "index"
        _git(worktree, "read-tree", "HEAD", index=index)
        content = dict(_read_lock(worktree))
        kept = content.get("stages", {})
        # In the order of names: DVC writes that of their ends, and the same experiment run again would look like another.
        content["stages"] = {key: kept[key] for key in sorted(kept) if stages is None or key in stages}
        dump_yaml(str(Path(folder) / LOCK), {"schema": "2.0", **content})
        for path, file in ((PARAMS, worktree / PARAMS), (LOCK, Path(folder) / LOCK)):
            blob = _git(worktree, "hash-object", "-w", "--no-filters", str(file))
            _git(worktree, "update-index", "--add", "--cacheinfo", f"100644,{blob},{path}", index=index)
        return _git(worktree, "write-tree", index=index)


def _share(root: Path, folder: Path) -> None:
    """Make a workspace use the clone's DVC cache and remotes, wherever their paths start.

    The clone's own settings go along. Paths that DVC reads relative to .dvc would mean another place there: they become absolute.
    """
    theirs = Config(str(root / ".dvc"))
    absolute = {
        "remote": {
            remote: {key: str(value) for key, value in settings.items() if isinstance(value, RelPath)}
            for remote, settings in theirs.load_one("repo")["remote"].items()
        }
    }
    with Config(str(folder / ".dvc")).edit("local") as ours:
        merge_config(ours, absolute)
        merge_config(ours, _plain(theirs.load_one("local")))
        ours["cache"]["dir"] = str(theirs["cache"].get("dir") or root.absolute() / ".dvc" / "cache")
        ours["core"]["site_cache_dir"] = str(folder / ".dvc" / "tmp" / "site")  # else it stays behind in /var/tmp
    (folder / ".dvc" / "config.local").chmod(0o600)  # it may hold keys


def _plain(value: Any) -> Any:
    """Settings without DVC's own kinds of string, which would be written relative again."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return str(value) if isinstance(value, str) else value


@contextlib.contextmanager
def _held(root: Path) -> Iterator[None]:
    """One at a time among all processes and threads that make, remove or fetch for this clone's workspaces."""
    folder = root / WORKSPACES
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".making").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _lease(folder: Path) -> Iterator[None]:
    """Hold the lock that says a workspace is in use."""
    path = _lease_of(folder)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _lease_of(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lease")


def _sweep(root: Path) -> None:
    """Remove workspaces whose makers are gone; called with the clone's lock held, so none is half made by a living process."""
    folder = root / WORKSPACES
    names = {path.name for path in folder.iterdir() if path.is_dir()}
    names |= {path.name[1 : -len(".lease")] for path in folder.glob(".*.lease")}
    for name in sorted(names):
        with _lease_of(folder / name).open("a") as file:
            if _free(file):
                _remove(root, folder / name)
                _lease_of(folder / name).unlink(missing_ok=True)


def _free(lease: IO[str]) -> bool:
    """Whether nobody else holds the lock."""
    try:
        fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_held(root: Path, folder: Path) -> None:
    shutil.rmtree(folder / "data", ignore_errors=True)  # may be a million files: let nobody wait for that
    with _held(root):
        _remove(root, folder)


def _remove(root: Path, folder: Path) -> None:
    """Remove a worktree and git's record of it, in whatever state a kill left them (forced twice: also half made)."""
    if _try_git(root, "worktree", "remove", "--force", "--force", str(folder)).returncode:
        shutil.rmtree(folder, ignore_errors=True)
        _try_git(root, "worktree", "unlock", str(folder))
        _try_git(root, "worktree", "prune")


def _changed(root: Path) -> list[str]:
    """Paths that differ from HEAD, relative to the clone; folders of which nothing is tracked by their name alone."""
    lines = iter(
        _git(root, "--no-optional-locks", "status", "--porcelain", "-z", "--untracked-files=normal").split("\0")
    )
    changed = []
    for line in lines:
        if line:
            changed.append(line[3:])
        if line[:1] in ("R", "C"):
            next(lines)  # what it was called before
    return changed


def _read_lock(root: Path) -> dict[str, Any]:
    """dvc.lock as it is; empty where there is none."""
    if not (root / LOCK).exists():
        return {}
    return dict(load_yaml(str(root / LOCK)) or {})


@contextlib.contextmanager
def _dvc_lock(root: Path) -> Iterator[None]:
    """The lock under which DVC itself reads and writes dvc.lock; waits for it as long as it takes."""
    folder = root / ".dvc" / "tmp"
    folder.mkdir(parents=True, exist_ok=True)
    hardlink = Config(str(root / ".dvc"))["core"].get("hardlink_lock", False)
    with make_lock(str(folder / "lock"), tmp_dir=str(folder), hardlink_lock=hardlink, wait=True):
        yield


def _git(root: Path, *arguments: str, index: Path | None = None, identity: bool = False, raw: bool = False) -> str:
    """What a git command prints, without its last line's end unless raw. Raises WorkspaceError with what it says where it fails."""
    done = _try_git(root, *arguments, index=index, identity=identity)
    if done.returncode:
        raise WorkspaceError(f"`git {' '.join(arguments)}` failed in {root}: {done.stderr.strip()}")
    return done.stdout if raw else done.stdout.strip("\n")


def _try_git(
    root: Path, *arguments: str, index: Path | None = None, identity: bool = False, seconds: float | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run git in `root`, whatever repository the environment points to, without asking anybody for a password."""
    environment = {key: value for key, value in os.environ.items() if key not in ELSEWHERE}
    environment |= {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    if index:
        environment["GIT_INDEX_FILE"] = str(index)
    if identity and _try_git(root, "var", "GIT_COMMITTER_IDENT").returncode:
        environment |= {f"GIT_{who}_{key}": value for who in ("AUTHOR", "COMMITTER") for key, value in NOBODY.items()}
    command = ["git", *arguments]
    try:
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=seconds)
        done.stderr = masked(done.stderr)  # git repeats the address of origin, and some have a token in it
        return done
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"no answer within {seconds:.0f} s")
