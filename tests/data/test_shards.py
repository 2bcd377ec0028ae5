"""Index and shard reader: the right bytes at any place, and words for what is missing."""

import io
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.lib.core.outcome import Refusal
from stages.lib.data import shards as shards_module
from stages.lib.data.index import read_index, splits
from stages.lib.data.shards import ShardReader
from stages.lib.ingestion import index_writer
from stages.lib.ingestion.index_writer import Place
from tests.ingestion.raw_project import RawProject, png, raw_project

__all__ = ["raw_project"]


@pytest.fixture
def made(raw_project: RawProject) -> RawProject:
    raw_project.tree(
        {
            f"{split}/{name}/{n}.png": png(hash_of(split, name, n))
            for split in ("train", "test", "val")
            for name in "ab"
            for n in range(5)
        }
    )
    raw_project.params("shard", images_per_shard=3)
    return raw_project.run("scan", "ingest", "shard")


def hash_of(split: str, name: str, number: int) -> int:
    return ["train", "test", "val"].index(split) * 100 + "ab".index(name) * 10 + number


def test_index__arrays_and_metadata(made: RawProject) -> None:
    index = made.index("val")
    assert (index.set_name, index.split, index.classes, len(index)) == ("things", "val", ("a", "b"), 10)
    assert index.shards == tuple(f"things-val-{n:06d}.tar" for n in range(4))
    assert index.shard_of.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]
    kinds = [index.labels.dtype, index.shard_of.dtype, index.offset.dtype, index.size.dtype, index.orientation.dtype]
    assert kinds == [np.int32, np.int32, np.int64, np.int32, np.int8]
    assert splits(made.folder / "data/index/things.parquet") == ("train", "val", "test")


def test_read__every_image_from_many_threads(made: RawProject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards_module, "MOST_OPEN", 1)  # a tar is dropped while another thread reads from it
    index = made.index("train")
    reader = ShardReader(index, made.shards)
    before = len(os.listdir("/proc/self/fd"))
    places = np.random.default_rng(0).integers(0, len(index), 400).tolist()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(reader.read, places))
    for place, data in zip(places, found, strict=True):
        _, name, number = index.keys[place].split("/")
        assert data == png(hash_of("train", name, int(number)))
        assert index.labels[place] == "ab".index(name)
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_read__names_what_is_missing(made: RawProject) -> None:
    index = made.index("train")
    tar = made.shards / index.shards[0]
    data = tar.read_bytes()
    tar.chmod(0o644)
    tar.write_bytes(data[: int(index.offset[2]) + 10])
    with pytest.raises(
        Refusal,
        match=rf"{index.shards[0]} is cut off: {index.keys[2]} .* at offset {int(index.offset[2]):,}, and 10 are",
    ):
        ShardReader(index, made.shards).read(2)
    tar.unlink()
    with pytest.raises(Refusal, match=rf"no shard .*{index.shards[0]}.*dvc checkout"):
        ShardReader(index, made.shards).read(0)


def test_index__names_what_exists(made: RawProject) -> None:
    path = made.folder / "data/index/things.parquet"
    with pytest.raises(Refusal, match="no split 'valid', only train, val, test"):
        read_index(path, "valid")
    with pytest.raises(Refusal, match="dvc repro -s shard@other"):
        read_index(path.with_name("other.parquet"), "train")


def test_index__reading_it_does_not_import_pandas(made: RawProject) -> None:
    """Half a second of every training stage's start."""
    code = "import sys; from pathlib import Path; from stages.lib.data.index import read_index\n"
    code += "index = read_index(Path('data/index/things.parquet'), 'val'); sys.exit(len(index) != 10 or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=made.folder).returncode == 0


def test_announce__names_the_bytes_of_the_images_to_the_system(
    made: RawProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = made.index("val")
    reader, told = ShardReader(index, made.shards), []

    def advise(descriptor: int, offset: int, size: int, advice: int) -> None:
        told.append((os.readlink(f"/proc/self/fd/{descriptor}").split("/")[-1], offset, size, advice))

    monkeypatch.setattr(os, "posix_fadvise", advise)
    reader.announce(np.array([7, 2]))
    expected = [
        (index.shards[int(index.shard_of[i])], int(index.offset[i]), int(index.size[i]), os.POSIX_FADV_WILLNEED)
        for i in (7, 2)
    ]
    assert told == expected


def test_index__sides_are_upright_and_keys_come_when_asked(made: RawProject) -> None:
    index = made.index("val")
    assert "keys" not in vars(index) and len(index.keys) == len(index) and "keys" in vars(index)
    assert all(key.startswith("val/") for key in index.keys)
    for i in range(len(index)):
        with Image.open(io.BytesIO(ShardReader(index, made.shards).read(i))) as image:
            assert image.size == (index.width[i], index.height[i])


def test_index__a_picture_that_lies_on_its_side_has_its_sides_exchanged(tmp_path: Path) -> None:
    places = [
        Place(f"k{turn}", "train", 0, "a.tar", 512, 9, "0" * 64, 40, 30, turn) for turn in (1, 3, 4, 5, 6, 8)
    ]  # EXIF orientations as stored: 40 x 30
    index_writer.write(tmp_path / "x.parquet", places, ["c"], {"a.tar": {"sha256": "", "bytes": 0}})
    index = read_index(tmp_path / "x.parquet", "train")
    assert index.width.tolist() == [40, 40, 40, 30, 30, 30] and index.height.tolist() == [30, 30, 30, 40, 40, 40]
