"""A part of the training images: nested, balanced, named by keys alone, and never more than what was asked."""

import hashlib
import itertools
from pathlib import Path

import numpy as np
import pytest

from stages.lib.core.outcome import Refusal
from stages.lib.core.ranks import Rank
from stages.lib.data.batches import batches
from stages.lib.data.classifier_stream import stream_of
from stages.lib.data.index import Index, read_index
from stages.lib.data.shards import ShardReader
from stages.lib.data.subset import part, rows
from stages.lib.params.views import Views
from tests.workspace import SET

PERCENT = (1, 5, 10, 25, 50, 100)
VIEWS = Views(seed=0, epochs=1, batch_size=4, image_size=16)


@pytest.fixture(scope="module")
def index(project: Path) -> Index:
    return read_index(project / f"data/index/{SET}.parquet", "train")


def kept(index: Index, percent: int) -> set[str]:
    return set(part(index, percent).keys)


def test_rows__known_answer() -> None:
    """sha256 of a, b, c, d begin with ca, 3e, 2e, 18: by them d, c, b, a; two classes of two and one of five."""
    keys, labels = list("abcd"), np.array([0, 0, 1, 1], np.int32)
    assert [hashlib.sha256(key.encode()).hexdigest()[:2] for key in keys] == ["ca", "3e", "2e", "18"]
    assert rows(keys, labels, 50).tolist() == [1, 3]
    assert rows(keys, labels, 1).tolist() == [1, 3]  # one a class at least
    assert rows(keys, labels, 100).tolist() == [0, 1, 2, 3]
    assert rows(list("abcd"), np.zeros(4, np.int32), 50).tolist() == [2, 3]


def test_part__smaller_ones_lie_within_larger_ones(index: Index) -> None:
    sets = [kept(index, percent) for percent in PERCENT]
    assert all(small < large for small, large in itertools.pairwise(sets))
    assert sets[-1] == set(index.keys)


@pytest.mark.parametrize("percent", PERCENT)
def test_part__every_class_keeps_its_share_rounded_up(index: Index, percent: int) -> None:
    whole, cut = (np.bincount(one.labels, minlength=len(index.classes)) for one in (index, part(index, percent)))
    assert cut.tolist() == [-(-int(count) * percent // 100) for count in whole]
    assert (cut - whole * percent / 100 < 1).all() and (cut >= 1).all()


def test_part__says_of_each_image_what_the_whole_says(index: Index, project: Path) -> None:
    cut, whole = part(index, 10), {key: row for row, key in enumerate(index.keys)}
    folder = project / f"data/shards/{SET}"
    reader, of_whole = ShardReader(cut, folder), ShardReader(index, folder)
    assert (np.diff(cut.shard_of) >= 0).all() and set(cut.shard_of) == set(range(len(cut.shards)))
    for row, key in enumerate(cut.keys):
        there = whole[key]
        assert reader.read(row) == of_whole.read(there)
        assert cut.labels[row] == index.labels[there] and cut.sides(row) == index.sides(there)
        assert cut.shards[cut.shard_of[row]] == index.shards[index.shard_of[there]]
    assert (cut.classes, cut.split, cut.path) == (index.classes, "train", index.path)


def test_part__of_everything_is_the_index_itself(index: Index) -> None:
    assert part(index, 100) is index


def test_part__of_a_part_is_one_too(index: Index) -> None:
    """Half of the half, by the same rank: what a quarter has (within rounding), all of it within the half."""
    again = part(part(index, 50), 50)
    assert kept(index, 25) <= set(again.keys) <= kept(index, 50)


def test_part__does_not_depend_on_the_order_of_the_rows() -> None:
    """As other shards would make of the same images."""
    rng = np.random.default_rng(0)
    keys, labels = [f"key {number}" for number in range(97)], rng.integers(0, 5, 97).astype(np.int32)
    turned = rng.permutation(97)
    straight = {keys[row] for row in rows(keys, labels, 25)}
    other = rows([keys[row] for row in turned], labels[turned], 25)
    assert {keys[turned[row]] for row in other} == straight
    assert {f"key {number}" for number in range(25)} != straight  # control: not simply the first


def test_stream__shows_images_of_the_part_alone(index: Index, project: Path) -> None:
    cut = part(index, 5)
    stream = stream_of(VIEWS, cut, ShardReader(cut, project / f"data/shards/{SET}"), 0)
    seen = [
        stream.keys(0, batch.positions.tolist()) for batch in batches(stream, 0, stream.steps_per_epoch, Rank(), 0, 1)
    ]
    assert stream.steps_per_epoch == len(cut) // 4
    assert {key for some in seen for key in some} <= kept(index, 5)


def test_stream__a_batch_larger_than_the_part_names_the_largest_there_is(index: Index, project: Path) -> None:
    cut = part(index, 1)
    reader = ShardReader(cut, project / f"data/shards/{SET}")
    words = rf"{SET} \(train, data.subset 1\): batch_size 64 is larger than an epoch of {len(cut)} images; take at most {len(cut)}"
    with pytest.raises(Refusal, match=words):
        _ = stream_of(VIEWS.model_copy(update={"batch_size": 64}), cut, reader, 0).steps_per_epoch
    mixing = VIEWS.model_copy(update={"batch_size": 64, "mixup": 0.8, "mix_group": 4})
    with pytest.raises(Refusal, match=f"take at most {len(cut) // 4 * 4}$"):
        _ = stream_of(mixing, cut, reader, 0).steps_per_epoch
    assert stream_of(VIEWS, cut, reader, 0).steps_per_epoch == len(cut) // 4  # control: a batch that fits


def test_keys__of_a_part_come_from_the_file(index: Index) -> None:
    """Also where nobody had asked the whole for its keys."""
    cut = part(index, 10)
    assert "keys" not in vars(cut)
    assert cut.keys == [index.keys[row] for row in np.asarray(cut.rows)]
