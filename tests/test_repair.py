"""python -m stages.repair: the damaged shards are built again, bit for bit, and nothing else is touched."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stages import repair
from stages.lib.core.outcome import Refusal
from tests.ingestion.raw_project import ROOT, RawProject, folder_of, png, raw_project
from tests.workspace import environment

__all__ = ["raw_project"]
FILES = {
    f"{split}/{name}/{n}.png": png(100 * s + 10 * k + n)
    for s, split in enumerate(("train", "val"))
    for k, name in enumerate("abc")
    for n in range(6)
}
SECOND = "things-train-000001.tar"


@pytest.fixture
def made(raw_project: RawProject) -> RawProject:
    """Three shards of training images, three of validation; the working folder is the project's."""
    raw_project.tree(FILES)
    raw_project.params("shard", images_per_shard=7)
    raw_project.run("scan", "ingest", "shard")
    raw_project.monkeypatch.chdir(raw_project.folder)
    return raw_project


def state(folder: Path) -> dict[str, tuple[int, int, str]]:
    """Name -> (inode, mtime, sha256) of every file."""
    return {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in folder.iterdir()
    }


def contents(told: dict[str, tuple[int, int, str]]) -> dict[str, str]:
    return {name: sha256 for name, (_, _, sha256) in told.items()}


def flip(path: Path, place: int = 600) -> None:
    """One bit, in place, through whatever links there are, with the times of before: as a disk does it."""
    status = path.stat()
    os.chmod(path, 0o644)
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)
        file.seek(place)
        file.write(bytes([byte[0] ^ 1]))
    os.chmod(path, status.st_mode)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def cached(path: Path) -> Path:
    """Move a file into a cache as DVC lays it, read-only; its object."""
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    place = Path(".dvc/cache/files/md5") / md5[:2] / md5[2:]
    place.parent.mkdir(parents=True, exist_ok=True)
    path.rename(place)
    place.chmod(0o444)
    return place


def test_repair__of_a_whole_set_touches_nothing(made: RawProject) -> None:
    """Negative control."""
    before = state(made.shards)
    assert repair.repair("things") == []
    assert state(made.shards) == before
    assert not list(made.folder.glob("data/runs/shard@things/*/*"))


def test_repair__builds_only_what_is_damaged_and_the_same_bytes(
    made: RawProject, caplog: pytest.LogCaptureFixture
) -> None:
    before = state(made.shards)
    flip(made.shards / SECOND)
    cut = made.shards / "things-val-000000.tar"
    cut.write_bytes(cut.read_bytes()[:1000])
    (made.shards / "things-val-000002.tar").unlink()
    (made.shards / "_info.json").write_text("{}")
    with caplog.at_level("INFO"):
        replaced = repair.repair("things")
    assert sorted(replaced) == ["_info.json", SECOND, "things-val-000000.tar", "things-val-000002.tar"]
    after = state(made.shards)
    assert contents(after) == contents(before)
    assert {name for name in after if after[name] != before[name]} == set(replaced)
    for words in (
        f"{SECOND} is damaged: its sha256 is not the index's",
        "things-val-000000.tar is damaged: 1,000 bytes, not 30,720",
        "things-val-000002.tar is damaged: it is missing",
        "4 files built again",
        "3 files are as the index says and were not touched",
    ):
        assert words in caplog.text
    assert not list(made.folder.glob("data/runs/shard@things/*/*"))


def test_repair__reads_no_raw_image_of_a_whole_shard(made: RawProject) -> None:
    damaged = {row["key"] for row in made.table("index") if row["shard"] == SECOND}
    members = {row["member"] for row in made.table("manifest") if row["key"] in damaged}
    for name in FILES.keys() - members:
        (made.raw / "things" / name).unlink()
    before = state(made.shards)
    flip(made.shards / SECOND)
    assert repair.repair("things") == [SECOND]
    assert contents(state(made.shards)) == contents(before)


@pytest.mark.parametrize("kind", ["hard", "symbolic", "own"])
def test_repair__never_writes_through_a_link_and_mends_the_cache(made: RawProject, kind: str) -> None:
    """A link shares the damage with DVC's object: both are replaced by new files, and the link is there again."""
    before = state(made.shards)
    objects = {}
    for path in sorted(made.shards.iterdir()):
        objects[path.name] = cached(path)
        if kind == "hard":
            os.link(objects[path.name], path)
        elif kind == "symbolic":
            path.symlink_to(objects[path.name].absolute())
        else:
            shutil.copyfile(objects[path.name], path)
    good, inodes = contents(state(made.shards)), {name: one.stat().st_ino for name, one in objects.items()}
    assert good == contents(before)
    flip(made.shards / SECOND)
    damaged = (objects[SECOND] if kind != "own" else made.shards / SECOND).open(
        "rb"
    )  # keeps what was damaged to be looked at
    with damaged:
        wrong = damaged.read()
        assert repair.repair("things") == [SECOND]
        damaged.seek(0)
        assert damaged.read() == wrong  # nobody wrote into it: it was replaced
    assert contents(state(made.shards)) == good
    for name, one in objects.items():
        assert hashlib.sha256(one.read_bytes()).hexdigest() == good[name] and one.stat().st_mode & 0o777 == 0o444
        assert (one.stat().st_ino == inodes[name]) == (name != SECOND or kind == "own")
    assert (made.shards / SECOND).is_symlink() == (kind == "symbolic")
    assert ((made.shards / SECOND).stat().st_ino == objects[SECOND].stat().st_ino) == (kind != "own")
    assert {path.name for path in made.shards.iterdir()} == set(good)


def test_repair__of_a_compressed_source_and_of_images_stored_anew(made: RawProject) -> None:
    """What comes in the archive's order, and what is encoded: the same bytes again."""
    import gzip

    plain = made.tar(FILES)
    (made.raw / "things.tgz").write_bytes(gzip.compress(plain.read_bytes()))
    made.params("sources", things={"layout": "folder", "path": "things.tgz"})
    for store in ("original", {"short_side": 8, "quality": 90, "subsampling": "4:4:4"}):
        made.params("shard", store=store)
        before = state(made.run("scan", "ingest", "shard").shards)
        flip(made.shards / SECOND)
        assert repair.repair("things") == [SECOND]
        after = state(made.shards)
        assert contents(after) == contents(before)
        assert {name for name in after if after[name] != before[name]} == {SECOND}


def refused(made: RawProject) -> str:
    """What the repair says; no file of the set may be touched."""
    before = state(made.shards)
    with pytest.raises(Refusal) as told:
        repair.repair("things")
    assert state(made.shards) == before
    return str(told.value)


def test_repair__refuses_where_the_raw_images_are_gone_or_changed(made: RawProject) -> None:
    flip(made.shards / SECOND)
    row = next(row for row in made.table("index") if row["shard"] == SECOND)
    member = next(one["member"] for one in made.table("manifest") if one["key"] == row["key"])
    folder_of(made.raw / "things", {member: png(999)})
    said = refused(made)
    for words in (
        f"{SECOND} cannot be built again",
        f"{member} in ",
        "has changed since",
        "dvc checkout --force data/shards",
    ):
        assert words in said
    (made.raw / "things" / member).unlink()
    assert "it is gone" in refused(made)
    shutil.rmtree(made.raw / "things")
    said = refused(made)
    for words in (
        f"{SECOND} cannot be built again",
        "raw images are not at",
        "TUTELAGE_RAW",
        "dvc pull --force data/shards/things",
    ):
        assert words in said


def test_repair__refuses_an_index_of_another_build_and_one_it_cannot_read(made: RawProject) -> None:
    index, path = (made.folder / "data/index/things.parquet").read_bytes(), made.folder / "data/index/things.parquet"
    made.params("shard", seed=1)
    said = refused(made)
    assert "is of another build" in said and "dvc repro shard@things" in said
    made.params("shard", seed=0, store={"short_side": 8, "quality": 90, "subsampling": "4:4:4"})
    assert "is of another build" in refused(made)
    made.params("shard", store="original")
    flip(path, 500)
    path.write_bytes(index[:-20])
    assert "is damaged" in refused(made) and "dvc checkout --force data/index" in refused(made)
    path.unlink()
    assert "There is no index" in refused(made)


def test_repair__refuses_to_give_what_the_index_does_not_list(
    made: RawProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another Pillow would encode: the rebuilt shard has another sha256."""
    (made.shards / SECOND).unlink()
    monkeypatch.setattr("stages.lib.ingestion.sample.BLOCK", 512)
    monkeypatch.setattr("stages.lib.ingestion.shard_copy.possible", lambda *_: False)
    from stages.lib.ingestion import shard_writer

    original = shard_writer.assembled
    monkeypatch.setattr(shard_writer, "assembled", lambda *rest: original(*rest).replace(b"RGB", b"BGR"))
    said = refused(made)
    assert f"{SECOND} built again is not what the index lists" in said and "dvc repro -f -s shard@things" in said


def test_repair__moves_aside_what_does_not_belong_there(made: RawProject) -> None:
    (made.shards / "things-train-000099.tar").write_bytes(b"mine")
    assert repair.repair("things") == []
    assert not (made.shards / "things-train-000099.tar").exists()
    assert (made.folder / "data/runs/repair@things/strays/things-train-000099.tar").read_bytes() == b"mine"


def test_command__is_reached_through_shard_and_refuses_with_2(made: RawProject) -> None:
    (made.folder / "data/index/things.parquet").unlink()
    command = [sys.executable, "-m", "stages.shard", "things", "--repair"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "There is no index" in done.stderr and "Traceback" not in done.stderr


def test_main__takes_every_set_that_has_an_index_and_no_option(made: RawProject) -> None:
    flip(made.shards / SECOND)
    made.monkeypatch.setattr(sys, "argv", ["repair"])
    repair.main()
    assert repair.repair("things") == []
    made.monkeypatch.setattr(sys, "argv", ["repair", "--fast"])
    with pytest.raises(Refusal, match="--fast is not known"):
        repair.main()


def dvc(*words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    """A dvc command in the current folder."""
    command = [sys.executable, "-m", "dvc", *words]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 or not check, done.stdout + done.stderr
    return done


@pytest.mark.slow
def test_repair__under_real_dvc__the_gate_names_it_and_after_the_repair_nothing_is_stale(made: RawProject) -> None:
    """A byte flips under DVC's eyes closed (size and times stay): the gate names shard, key and offset; after the repair only that
    shard is new, cache included, `dvc status` is clean, and `dvc checkout` from the mended cache gives the right bytes."""
    shutil.rmtree("data/shards"), shutil.rmtree("data/index"), shutil.rmtree("data/runs")
    Path("data/expectations").symlink_to(ROOT / "data/expectations")
    Path("stages").unlink()
    shutil.copytree(ROOT / "stages", "stages", ignore=shutil.ignore_patterns("__pycache__"))
    Path("dvc.yaml").unlink()
    shutil.copyfile(ROOT / "dvc.yaml", "dvc.yaml")
    made.values["sources"] = {"things": {"layout": "folder", "path": "things"}}
    made.values["sets"] = {"main": "things", "transfer": []}
    made.params("shard")
    subprocess.run(["git", "init", "-q"], check=True)
    dvc("init", "-q")
    dvc("config", "cache.type", "hardlink")  # so that the cache shares the damage
    dvc("repro", "validate-shards@things")
    before = state(made.shards)
    flip(made.shards / SECOND)
    failed = dvc("repro", "-f", "-s", "validate-shards@things", check=False)
    said = failed.stdout + failed.stderr
    assert failed.returncode and f"shard '{SECOND}'" in said and "key '" in said and "offset 512" in said
    assert "python -m stages.shard --repair things" in said
    command = [sys.executable, "-m", "stages.shard", "--repair", "things"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and f"1 files built again ({SECOND})" in done.stderr
    after = state(made.shards)
    assert contents(after) == contents(before)
    assert {name for name in after if after[name] != before[name]} == {SECOND}
    assert "DVC's cache had the same damage" in done.stderr
    dvc("repro", "-f", "-s", "validate-shards@things")  # looks at every byte
    again = dvc("repro", "validate-shards@things")
    assert {line.split("'")[1] for line in again.stdout.splitlines() if line.startswith("Running stage '")} == {
        "scan@things"
    }
    status = json.loads(dvc("status", "--json", "validate-shards@things").stdout)
    assert set(status) <= {"scan@things"}  # which always is
    shutil.rmtree(made.shards)
    dvc("checkout", "data/shards/things")
    assert contents(state(made.shards)) == contents(before)
