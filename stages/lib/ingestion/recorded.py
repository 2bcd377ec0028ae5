"""The recorded listing of a source whose raw images are not on this machine (another worker, a temporary experiment).

Everything after `scan` and before `shard` can then be skipped or pulled; only what reads raw images needs them.
"""

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stages.lib.core.outcome import Refusal
from stages.lib.ingestion import dvc_cache
from stages.lib.ingestion.raw import Place
from stages.lib.ingestion.stat_cache import StatCache


def find(set_name: str, path: str, place: Place, cache: StatCache) -> tuple[Path, str]:
    """(the recorded listing file, where it was found) for the source configured as `path`. Raises Refusal.

    dvc.lock says which listing the pipeline was last run with; the run root's copy serves if it is that one, or if
    the lock says nothing or its listing cannot be had.
    """
    state = cache.state(path)
    copy = cache.listing(state) if state else None
    md5, tried = _locked(set_name, path)
    if copy and md5 in ("", dvc_cache.md5(copy)):
        return copy, f"the last scan's copy, {copy}"
    for folder in dvc_cache.folders():
        file = dvc_cache.place(folder, md5)
        tried.append(f"{file}: {'found' if md5 and file.is_file() else 'no' if md5 else 'not looked for'}")
        if md5 and file.is_file() and dvc_cache.md5(file) == md5:
            return file, f"the listing dvc.lock names, {file}"
    if copy:
        return (
            copy,
            f"the last scan's copy, {copy} (not the one in dvc.lock, md5 {md5}, which is in no local DVC cache)",
        )
    tried.append(f"{cache.folder}: no scan of {path!r} is remembered")
    raise Refusal(
        f"The raw images of {set_name} are not at {place}, and no listing of them is recorded. Looked in:\n  "
        + "\n  ".join(tried)
        + "\nPut the images there, set TUTELAGE_RAW to the folder that relative paths of `sources` start at, or get the listing "
        f"with `dvc fetch scan@{set_name}`."
    )


def known(set_name: str, path: str) -> bool:
    """Whether any scan of the source configured as `path` is remembered, here or in dvc.lock."""
    return bool(_locked(set_name, path)[0]) or StatCache(set_name).state(path) is not None


def _locked(set_name: str, path: str) -> tuple[str, list[str]]:
    """(md5 of the listing in ./dvc.lock, or nothing; what to tell where it is nothing)."""
    lock = Path("dvc.lock")
    if not lock.is_file():
        return "", [f"{lock.absolute()}: no such file"]
    try:
        stage: dict[str, Any] = YAML(typ="safe").load(lock)["stages"][f"scan@{set_name}"]
        source = stage["params"]["params.yaml"][f"sources.{set_name}"]
        md5 = str(stage["outs"][0]["md5"])
    except (YAMLError, KeyError, TypeError, IndexError):
        return "", [f"{lock.absolute()}: no entry for scan@{set_name}"]
    if source.get("path") != path:
        return "", [f"{lock.absolute()}: scan@{set_name} was run on {source.get('path')!r}"]
    return md5, [f"{lock.absolute()}: scan@{set_name} made a listing with md5 {md5}"]
