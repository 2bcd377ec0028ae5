"""The walk: what counts as a file, what is refused, and that every change shows in a fingerprint."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stages.lib.core.outcome import Refusal
from stages.lib.ingestion.folder_walk import POOL_FROM, walk
from tests.conftest import ROOT
from tests.ingestion.raw_project import folder_of


def prints(root: Path, processes: int = 1) -> dict[str, str]:
    return {one.path: one.fingerprint for one in walk(str(root), {}, processes)}


def test_walk__names_and_facts(tmp_path: Path) -> None:
    folder_of(
        tmp_path,
        {"a/y": b"12", "a/x": b"1", "a/b/z": b"", "e/": b"", ".hidden/q": b"", "a/.DS_Store": b"", "a/Thumbs.db": b""},
    )
    found = {one.path: one for one in walk(str(tmp_path), {}, 1)}
    assert set(found) == {"", "a", "a/b", "e"}
    assert found["a"].names == ["x", "y"]
    assert found["a"].facts[:, 0].tolist() == [1, 2]
    assert found["a"].facts[0, 1] == os.stat(tmp_path / "a" / "x").st_mtime_ns
    assert (found["e"].empty, found["a"].empty) == (True, False)
    assert sum(one.ignored for one in found.values()) == 3


def test_walk__what_is_known_is_not_listed_again(tmp_path: Path) -> None:
    folder_of(tmp_path, {"a/x": b"1", "b/y": b"2"})
    known = prints(tmp_path)
    assert all(not one.names for one in walk(str(tmp_path), known, 1))
    (tmp_path / "b" / "y").write_bytes(b"3")  # same size, another time
    assert {one.path: one.names for one in walk(str(tmp_path), known, 1)} == {"": [], "a": [], "b": ["y"]}


@pytest.mark.parametrize("change", ["touch", "rename", "grow", "add", "remove"])
def test_walk__every_change_shows(tmp_path: Path, change: str) -> None:
    folder_of(tmp_path, {"a/x": b"1", "a/y": b"1"})
    before, file = prints(tmp_path), tmp_path / "a" / "x"
    assert prints(tmp_path) == before
    if change == "touch":
        os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    elif change == "rename":
        file.rename(file.with_name("z"))
    elif change == "grow":
        time = file.stat().st_mtime_ns
        file.write_bytes(b"12")
        os.utime(file, ns=(0, time))
    elif change == "add":
        file.with_name("z").touch()
    else:
        file.unlink()
    assert prints(tmp_path) != before


BY_TWO = """
import json, sys
from stages.lib.core.outcome import Refusal
from tests.ingestion.test_folder_walk import Path, prints
try:
    print(json.dumps(prints(Path(sys.argv[1]), 2)))
except Refusal as refusal:
    print(refusal)
"""


def by_two(root: Path) -> str:
    """What two processes find, in a process of its own: the walk forks, and this one has threads by now."""
    command = [sys.executable, "-c", BY_TWO, str(root)]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=100).stdout


def test_walk__processes_find_the_same(tmp_path: Path) -> None:
    folder_of(tmp_path, {f"c{number:03d}/x": str(number).encode() for number in range(POOL_FROM + 6)})
    assert json.loads(by_two(tmp_path)) == prints(tmp_path, 1)
    (tmp_path / "c000" / "loop").symlink_to(tmp_path)
    assert "link to a folder" in by_two(tmp_path)


def test_walk__links(tmp_path: Path) -> None:
    folder_of(tmp_path / "far", {"x": b"far away"})
    folder_of(tmp_path / "set", {"a/y": b""})
    (tmp_path / "set" / "a" / "x").symlink_to("../../far/x")
    found = {one.path: one for one in walk(str(tmp_path / "set"), {}, 1)}["a"]
    assert (found.names, found.facts[:, 0].tolist()) == (["x", "y"], [8, 0])
    (tmp_path / "set" / "a" / "gone").symlink_to("nowhere")
    with pytest.raises(Refusal, match="gone is a link to 'nowhere', which does not exist"):
        prints(tmp_path / "set")


def test_walk__pipes_and_foreign_names_are_refused(tmp_path: Path) -> None:
    folder_of(tmp_path / "one", {"a/x": b""})
    os.mkfifo(tmp_path / "one" / "a" / "pipe")
    with pytest.raises(Refusal, match="pipe is no file"):
        prints(tmp_path / "one")
    folder_of(tmp_path / "two", {"a/x": b""})
    Path(os.fsdecode(os.fsencode(tmp_path / "two") + b"/a/\xff.png")).touch()
    with pytest.raises(Refusal, match="not UTF-8"):
        prints(tmp_path / "two")
