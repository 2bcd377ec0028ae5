"""Files and folders appear whole or not at all."""

import os
from pathlib import Path

import pytest

from stages.lib.core import files


def fill(folder: Path, text: str) -> None:
    with files.replace_folder(folder) as fresh, files.replace(fresh / "a.txt") as path:
        path.write_text(text)


def test_replace__a_failure_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with files.replace(path) as temporary:
        temporary.write_text("old")
    with pytest.raises(RuntimeError), files.replace(path) as temporary:
        temporary.write_text("new")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("flush", [True, False])
def test_replace__flushes_the_file_then_renames_then_flushes_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flush: bool
) -> None:
    """In this order alone a power cut leaves the old or the new one, whole; without flush only the rename is left."""
    done, fsync, rename = list[str](), os.fsync, Path.replace

    def watched_fsync(descriptor: int) -> None:
        done.append(f"flush {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        fsync(descriptor)

    def watched_rename(self: Path, to: Path) -> Path:
        done.append(f"rename {self.name} {to.name}")
        return rename(self, to)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "replace", watched_rename)
    with files.replace(tmp_path / "a.txt", flush=flush) as temporary:
        temporary.write_text("new")
        name = temporary.name
    order = [f"flush {name}", f"rename {name} a.txt", f"flush {tmp_path.name}"]
    assert done == (order if flush else order[1:2])


def test_replace_folder__a_failure_leaves_the_old_folder_and_no_rest(tmp_path: Path) -> None:
    fill(tmp_path / "m", "old")
    with pytest.raises(RuntimeError), files.replace_folder(tmp_path / "m") as fresh:
        (fresh / "b.txt").write_text("half")
        raise RuntimeError
    assert (tmp_path / "m" / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    fill(tmp_path / "m", "new")
    assert (tmp_path / "m" / "a.txt").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_replace_folder__killed_between_the_renames_the_old_folder_comes_back(tmp_path: Path) -> None:
    """What such a kill leaves: the old folder under its other name, the new one finished, none in its place."""
    fill(tmp_path / ".m.old", "old")
    fill(tmp_path / ".m.tmp", "new")
    with pytest.raises(RuntimeError), files.replace_folder(tmp_path / "m"):
        raise RuntimeError
    assert (tmp_path / "m" / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
