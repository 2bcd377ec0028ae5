"""scan: content in, content out; what did not change is not read; absent sources keep their record."""

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path

import pytest

from stages.lib.core.outcome import Refusal
from stages.lib.ingestion import source_scan, tar_listing
from tests.ingestion.raw_project import RawProject, folder_of, raw_project, tar_of

__all__ = ["raw_project"]
FILES = {"a/1.png": b"one", "a/2.png": b"two", "b/3.png": b"three"}


def out(project: RawProject) -> Path:
    return project.folder / "data/listing/things.parquet"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Members that are read, as scan reads them."""
    seen: list[str] = []
    original = source_scan._read

    def watched(place: str, member: str, size: int, mtime: int) -> source_scan.Row:
        seen.append(member)
        return original(place, member, size, mtime)

    monkeypatch.setattr(source_scan, "_read", watched)
    return seen


def test_scan__lists_content(raw_project: RawProject) -> None:
    raw_project.tree({**FILES, "empty/": b"", ".DS_Store": b"x", "a/._1.png": b"x"})
    rows = raw_project.run("scan").table("listing")
    assert [row["member"] for row in rows] == ["a/1.png", "a/2.png", "b/3.png", "empty/"]
    assert rows[2] == {"member": "b/3.png", "bytes": 5, "sha256": hashlib.sha256(b"three").hexdigest(), "offset": -1}


def test_scan__same_bytes_whatever_the_times_or_cache(raw_project: RawProject) -> None:
    raw_project.tree(FILES)
    first = out(raw_project.run("scan")).read_bytes()
    for file in raw_project.raw.rglob("*.png"):
        os.utime(file, (1, 1))
    assert out(raw_project.run("scan")).read_bytes() == first
    shutil.rmtree(raw_project.folder / "data/runs")
    assert out(raw_project.run("scan")).read_bytes() == first


def test_scan__reads_only_what_changed(raw_project: RawProject, read: list[str]) -> None:
    place = raw_project.tree(FILES)
    raw_project.run("scan")
    assert sorted(read) == sorted(FILES)
    read.clear()
    out(raw_project).unlink()  # DVC deletes it before each run
    raw_project.run("scan")
    assert (read, len(raw_project.listing())) == ([], 3)
    folder_of(place, {"a/2.png": b"TWO", "c/4.png": b"four"}, age=50)
    (place / "b" / "3.png").unlink()
    raw_project.run("scan")
    assert sorted(read) == ["a/2.png", "c/4.png"]
    found = raw_project.listing()
    assert sorted(found) == ["a/1.png", "a/2.png", "b/", "c/4.png"]
    assert found["a/2.png"]["sha256"] == hashlib.sha256(b"TWO").hexdigest()


def test_scan__a_young_file_is_read_again(raw_project: RawProject, read: list[str]) -> None:
    """Same size, same coarse time, other content: only reading tells."""
    place = raw_project.tree(FILES)
    folder_of(place, {"a/1.png": b"old"}, age=0)
    raw_project.run("scan")
    time = (place / "a/1.png").stat().st_mtime_ns
    (place / "a/1.png").write_bytes(b"new")
    os.utime(place / "a/1.png", ns=(time, time))
    read.clear()
    raw_project.run("scan")
    assert read == ["a/1.png"]
    assert raw_project.listing()["a/1.png"]["sha256"] == hashlib.sha256(b"new").hexdigest()


def test_scan__a_damaged_cache_is_not_believed(raw_project: RawProject, read: list[str]) -> None:
    raw_project.tree(FILES)
    raw_project.run("scan")
    good = out(raw_project).read_bytes()
    for file in (raw_project.folder / "data/runs/scan/things").glob("*.parquet"):
        file.write_bytes(file.read_bytes()[:-9])
    read.clear()
    raw_project.run("scan")
    assert sorted(read) == sorted(FILES)
    assert out(raw_project).read_bytes() == good


def test_scan__tar_equals_folder_but_for_offsets_and_is_read_once(
    raw_project: RawProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw_project.tree(FILES)
    folder = raw_project.run("scan").listing()
    path = raw_project.tar(FILES)
    os.utime(path, (1, 1))
    tar = raw_project.run("scan").listing()
    for member, row in tar.items():
        assert path.read_bytes()[row["offset"] : row["offset"] + row["bytes"]] == FILES[member]
        assert {**row, "offset": -1} == folder[member]
    original = tar_listing.entries
    monkeypatch.setattr(tar_listing, "entries", lambda _: pytest.fail("read again"))
    raw_project.run("scan")
    monkeypatch.setattr(tar_listing, "entries", original)
    tar_of(path, {**FILES, "b/4.png": b"4"})
    assert "b/4.png" in raw_project.run("scan").listing()


def test_scan__writes_the_embedded_set_first(raw_project: RawProject) -> None:
    raw_project.params("sources", things={"layout": "folder", "path": "things", "embedded": "digits-7-9"})
    assert len(raw_project.run("scan").listing()) == 533
    (raw_project.raw / "things/7/0007.png").unlink()
    assert len(raw_project.run("scan").listing()) == 532  # what is there is the person's


def test_scan__absent_source_keeps_the_last_scan(raw_project: RawProject, caplog: pytest.LogCaptureFixture) -> None:
    place = raw_project.tree(FILES)
    first = out(raw_project.run("scan")).read_bytes()
    shutil.rmtree(place)
    out(raw_project).unlink()
    with caplog.at_level(logging.WARNING):
        raw_project.run("scan")
    assert out(raw_project).read_bytes() == first
    assert "Keeping the recorded listing: the last scan's copy" in caplog.text


def record(project: RawProject, cache: str = ".dvc/cache", path: str = "things") -> bytes:
    """Put the present listing into dvc.lock and a DVC cache, as `dvc repro` does."""
    data = out(project).read_bytes()
    md5 = hashlib.md5(data).hexdigest()
    place = project.folder / cache / "files/md5" / md5[:2] / md5[2:]
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)
    (project.folder / ".dvc").mkdir(exist_ok=True)
    stage = {
        "cmd": "python -m stages.scan things",
        "params": {"params.yaml": {"sources.things": {"layout": "folder", "path": path}}},
        "outs": [{"path": "data/listing/things.parquet", "hash": "md5", "md5": md5, "size": len(data)}],
    }
    (project.folder / "dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": {"scan@things": stage}}))
    return data


@pytest.mark.parametrize("configured", [False, True])
def test_scan__absent_source_on_another_worker_takes_what_dvc_recorded(
    raw_project: RawProject, caplog: pytest.LogCaptureFixture, configured: bool
) -> None:
    place = raw_project.tree(FILES)
    data = record(raw_project.run("scan"), "elsewhere" if configured else ".dvc/cache")
    if configured:
        (raw_project.folder / ".dvc/config.local").write_text(
            '[core]\n    analytics = false\n[cache]\n    dir = "../elsewhere"\n'
        )
    shutil.rmtree(place)
    shutil.rmtree(raw_project.folder / "data/runs")
    out(raw_project).unlink()
    with caplog.at_level(logging.WARNING):
        raw_project.run("scan")
    assert out(raw_project).read_bytes() == data
    assert "the listing dvc.lock names" in caplog.text


def test_scan__dvc_lock_outranks_an_older_copy(raw_project: RawProject) -> None:
    place = raw_project.tree(FILES)
    raw_project.run("scan")
    old = raw_project.folder / "old"
    shutil.copytree(raw_project.folder / "data/runs", old)
    folder_of(place, {"a/5.png": b"5"})
    data = record(raw_project.run("scan"))
    shutil.rmtree(place)
    shutil.rmtree(raw_project.folder / "data/runs")
    old.rename(raw_project.folder / "data/runs")
    assert out(raw_project.run("scan")).read_bytes() == data


def test_scan__absent_source_without_a_record_is_refused(raw_project: RawProject) -> None:
    with pytest.raises(
        Refusal,
        match=r"not at .*things, and no listing .* is recorded(.|\n)*dvc.lock: no such file(.|\n)*no scan of 'things'",
    ):
        raw_project.run("scan")


def test_scan__a_record_of_another_source_does_not_count(raw_project: RawProject) -> None:
    place = raw_project.tree(FILES)
    record(raw_project.run("scan"))
    shutil.rmtree(place)
    raw_project.params("sources", things={"layout": "folder", "path": "others"})
    with pytest.raises(Refusal, match=r"scan@things was run on 'things'(.|\n)*no scan of 'others'"):
        raw_project.run("scan")
