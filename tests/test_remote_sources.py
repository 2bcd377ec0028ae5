"""Raw sources on S3: the same shards as from local files, in large ranges, past every fault; a worker without access keeps on."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from stages.lib.core.outcome import Refusal
from stages.lib.ingestion import expansion, findings
from tests.ingestion import official
from tests.ingestion.raw_project import RawProject, folder_of, png, raw_project, tar_of
from tests.s3 import PASSING, Server

__all__ = ["raw_project"]
TREE = {
    f"{split}/{name}/{n}.png": png(10 * k + n)
    for k, name in enumerate("ab")
    for n, split in enumerate(("train", "val"))
}


def upload(server: Server, folder: Path) -> None:
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        server.put(f"raw/{path.relative_to(folder).as_posix()}", path.read_bytes())


def shards(project: RawProject) -> dict[str, bytes]:
    project.run("scan", "ingest", "shard")
    return {path.name: path.read_bytes() for path in project.shards.iterdir()}


def both(project: RawProject, server: Server, layout: str, write: Callable[[Path], object]) -> dict[str, bytes]:
    """The shards of a local source, which now also lies on S3, where the project then looks for it."""
    folder = project.raw / "things"
    folder.mkdir(parents=True)
    write(folder)
    upload(server, folder)
    project.params("sources", things={"layout": layout, "path": "things"})
    local = shards(project)
    project.params("sources", things={"layout": layout, "path": f"{server.uri}/raw"})
    return local


@pytest.mark.parametrize(
    ("layout", "write"),
    [("imagenet", official.imagenet), ("cifar", official.cifar10), ("folder", lambda folder: folder_of(folder, TREE))],
)
def test_remote__the_same_shards_as_from_local_files(
    raw_project: RawProject, s3: Server, layout: str, write: Callable[[Path], object]
) -> None:
    local = both(raw_project, s3, layout, write)
    assert shards(raw_project) == local


def test_remote__archives_are_read_in_large_ranges(raw_project: RawProject, s3: Server) -> None:
    """Not image by image: ingestion and sharding each ask for an archive of a few hundred images a few times."""
    both(raw_project, s3, "imagenet", official.imagenet)
    shards(raw_project)
    images = sum(row["container"] == "ILSVRC2012_img_train.tar" for row in raw_project.table("manifest"))
    asked = s3.counts["GET", "raw/ILSVRC2012_img_train.tar"]
    sheet = images  # the contact sheet reads its few images by their places
    assert 2 <= asked <= 4 + min(48, sheet)


def test_remote__one_archive_is_a_source(raw_project: RawProject, s3: Server) -> None:
    raw_project.tar(TREE)
    local = shards(raw_project)
    s3.put("more/things.tar", tar_of(raw_project.folder / "x.tar", TREE).read_bytes())
    raw_project.params("sources", things={"layout": "folder", "path": f"{s3.uri}/more/things.tar"})
    assert shards(raw_project) == local
    raw_project.params("sources", things={"layout": "folder", "path": f"{s3.uri}/more/other.tar"})
    with pytest.raises(Refusal, match=r"no object s3://.*other\.tar"):
        raw_project.run("scan")


@pytest.mark.parametrize("kind", PASSING)
def test_remote__the_right_shards_past_faults(raw_project: RawProject, s3: Server, kind: str) -> None:
    """A flipped byte too: the object was stored with a checksum, which shows it where one answer brings the whole."""
    local = both(raw_project, s3, "cifar", official.cifar10)
    raw_project.run("scan")
    s3.faults(kind, key="raw/", times=2)
    raw_project.run("ingest")
    s3.faults(kind, key="raw/", times=2)
    raw_project.run("shard")
    assert s3.struck >= 2
    assert {path.name: path.read_bytes() for path in raw_project.shards.iterdir()} == local


@pytest.mark.parametrize("kind", ["expired", "missing"])
def test_remote__a_lasting_fault_is_a_clear_error(raw_project: RawProject, s3: Server, kind: str) -> None:
    both(raw_project, s3, "cifar", official.cifar10)
    raw_project.run("scan")
    s3.faults(kind, key="raw/")
    with pytest.raises(Refusal) as caught:
        raw_project.run("ingest")
    assert "very-secret" not in str(caught.value) and s3.uri in str(caught.value)


def test_remote__an_object_that_changed_since_the_scan_is_refused(raw_project: RawProject, s3: Server) -> None:
    both(raw_project, s3, "folder", lambda folder: folder_of(folder, TREE))
    raw_project.run("scan")
    s3.put("raw/train/a/0.png", png(99))
    with pytest.raises(Refusal, match=r"train/a/0\.png"):
        raw_project.run("ingest")
    raw_project.run("scan", "ingest", "shard")  # a new scan sees the change


def test_scan__a_worker_without_access_keeps_the_recorded_listing(
    raw_project: RawProject, s3: Server, caplog: pytest.LogCaptureFixture
) -> None:
    both(raw_project, s3, "folder", lambda folder: folder_of(folder, TREE))
    listed = raw_project.run("scan").table("listing")
    s3.faults("expired", method="GET")
    with caplog.at_level(logging.WARNING):
        assert raw_project.run("scan").table("listing") == listed
    assert "Keeping the recorded listing" in caplog.text


def test_remote__processes_change_nothing(raw_project: RawProject, s3: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    local = both(raw_project, s3, "folder", lambda folder: folder_of(folder, TREE))
    monkeypatch.setattr("stages.lib.ingestion.parallel.SMALL", 0)
    monkeypatch.setattr(findings, "TOGETHER", 2)
    monkeypatch.setattr(expansion, "KEPT", 1 << 12)
    raw_project.params("system", processes=2)
    assert shards(raw_project) == local
