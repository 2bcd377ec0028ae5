"""Any JPEGs become shards whose readers give back the very bytes."""

from pathlib import Path

import numpy as np
import pytest
import webdataset

from benchmarks.pictures import collect, shelve, shortened
from stages.lib.core.outcome import Refusal
from stages.lib.data.decode import decode
from stages.lib.data.shards import ShardReader
from tests.benchmarks import jpegs


def shards(path: Path) -> Path:
    shelve(jpegs.jpegs(), path)
    return path


@pytest.mark.parametrize(
    "made",
    [
        jpegs.folder,
        shards,
        lambda path: jpegs.tar(path.with_suffix(".tar")),
        lambda path: jpegs.tar(path.with_suffix(".tar.gz"), "w:gz"),
    ],
    ids=["folder", "shards", "tar", "tar.gz"],
)
def test_collect__finds_every_jpeg_whatever_its_name(made, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    found, broken = collect(made(tmp_path / "here"))
    assert sorted(found) == sorted(jpegs.jpegs())
    assert broken == 0


def test_collect__takes_some_of_many(tmp_path: Path) -> None:
    assert len(collect(jpegs.folder(tmp_path / "here"), most=3)[0]) == 3


def test_collect__passes_over_a_cut_one_and_says_so(tmp_path: Path) -> None:
    folder = jpegs.folder(tmp_path / "here")
    (folder / "cut.jpg").write_bytes(jpegs.jpegs()[0][:-200])
    found, broken = collect(folder)
    assert (len(found), broken) == (jpegs.COUNT, 1)


def test_collect__says_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="no such file or folder"):
        collect(tmp_path / "nowhere")
    (tmp_path / "text").write_text("no picture")
    with pytest.raises(Refusal, match="none is a JPEG"):
        collect(tmp_path)


def test_shelve__every_row_is_its_image_and_webdataset_reads_the_tars(tmp_path: Path) -> None:
    made = jpegs.jpegs(7)
    pictures = shelve(made, tmp_path / "shards", least=17)
    assert len(pictures.index) == 21 and len(set(pictures.index.keys)) == 21
    reader = ShardReader(pictures.index, pictures.folder)
    assert [reader.read(row) for row in range(21)] == [made[which] for which in pictures.jpeg_of]
    assert (np.diff(pictures.jpeg_of) != 0).all()  # the same image twice running would sit in the processor's cache
    read = webdataset.WebDataset([str(path) for path in pictures.shards], shardshuffle=False)
    assert [sample["jpg"] for sample in read] == made


def test_shortened__is_smaller_and_a_small_one_stays_as_it_is() -> None:
    (large,) = jpegs.jpegs(1, 800, 640)
    assert decode(shortened(large)).size == (400, 320)
    (small,) = jpegs.jpegs(1, 60, 44)
    assert shortened(small) is small
