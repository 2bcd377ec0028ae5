"""Exactly once: no image of an epoch is dropped or doubled, and its order is one for every number of ranks, threads and passes.

A plan is drawn at random: images, shards, kind of order, window, repeats, mixing groups, batch, ranks, passes, the step of a
restart. What the loader will read is computed for it without reading a pixel, so that thousands of plans take seconds; a few go
through the real loader with its threads. The negative controls break the product's own functions: the same property must fail.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from stages.lib.core.ranks import Rank
from stages.lib.data import batches, each_once, order, photo
from stages.lib.data.batches import Stream, _Places
from stages.lib.data.classifier_stream import stream_of
from stages.lib.data.crop import Frame
from stages.lib.data.index import Index
from stages.lib.params.views import Views

EPOCHS = 2  # planned of each: over the border between two
PIXEL = Frame((0, 0, 8, 8), (1, 1), (0, 0, 1, 1))
CALM = settings(deadline=None, suppress_health_check=list(HealthCheck))


@dataclass(frozen=True)
class Plan:
    """Everything that may not matter to what is seen, and everything that may."""

    views: Views
    shards: tuple[int, ...]
    """Images in each."""
    world: int
    passes: int
    first: int
    """Step at which a second process goes on."""

    @property
    def stream(self) -> Stream:
        """As a stage builds it."""
        return stream_of(self.views, index_of(self.shards), Reader(), 0)

    @property
    def last(self) -> int:
        """Behind the last step planned."""
        return EPOCHS * self.stream.steps_per_epoch


class Reader:
    """Gives an image's number for its bytes."""

    def read(self, image: int) -> bytes:
        """Eight of them."""
        return image.to_bytes(8, "little")

    def announce(self, rows: np.ndarray) -> None:
        """Nothing to read."""

    def expect(self, rows: np.ndarray, position: int) -> None:
        """Nothing to fetch."""


def index_of(shards: tuple[int, ...]) -> Index:
    """An index of so many images in each shard; the label of an image is its number."""
    count, zeros = sum(shards), np.zeros(sum(shards), np.int64)
    shard_of = np.repeat(np.arange(len(shards)), shards).astype(np.int32)
    names = tuple(f"{number}.tar" for number in range(len(shards)))
    side = np.full(count, 8, np.int32)
    return Index(
        Path("none"), "plan", "train", 0, ("a",), np.arange(count, dtype=np.int32), shard_of, names, names, tuple(shards),
        zeros, zeros.astype(np.int32), side, side, np.ones(count, np.int8),
    )  # fmt: skip


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Any that the parameters' own schema allows: an epoch holds a batch, ranks and passes hold whole mixing groups."""
    kind = draw(st.sampled_from(["permutation", "block", "block", "deit"]))
    world, passes, replicas = draw(st.integers(1, 5)), draw(st.integers(1, 3)), 1
    repeats, mixes = draw(st.integers(1, 4)), draw(st.booleans())
    group = 2 * draw(st.integers(1, 3)) if mixes else 1
    unit = world * passes * group
    if kind == "deit":
        replicas = draw(st.sampled_from([1, 2, 4]))
        unit = math.lcm(unit, replicas * group)
    least = -(-repeats * group // unit) if mixes else 1  # a batch has a group for each view
    batch = unit * draw(st.integers(least, least + 3))
    low = max(batch, 256 if kind == "deit" else 1)
    if kind == "deit":
        low = -(-low // 256) * 256
    count = draw(st.integers(low, low + 3 * batch + 7))
    cuts = sorted(draw(st.sets(st.integers(1, count), max_size=9)) | {count})
    shards = tuple(after - before for before, after in itertools.pairwise([0, *cuts]))
    views = Views(
        seed=draw(st.integers(0, 3)), epochs=EPOCHS, batch_size=batch, image_size=1, order=kind, replicas=replicas,
        window=draw(st.integers(1, 10)), repeats=repeats, mixup=0.8 if mixes else 0.0, mix_group=max(2, group),
    )  # fmt: skip
    plan = Plan(views, shards, world, passes, 0)
    return Plan(views, shards, world, passes, draw(st.integers(0, plan.last - 1)))


Seen = list[tuple[int, list[int], list[int], list[int]]]
"""Of every step: (epoch, positions, images, numbers of the mixing groups), as the global batch has them."""


def seen(plan: Plan, world: int, passes: int, first: int) -> Seen:
    """What `world` ranks look at in `passes` each, put together again; each rank starts anew at step `first`."""
    stream = plan.stream
    ranks = [_Places(stream, Rank(number, world).slice(stream.batch_size)) for number in range(world)]
    found: Seen = []
    for step in range(first, plan.last):
        positions: list[int] = []
        images: list[int] = []
        groups: list[int] = []
        epochs = set()
        for places in ranks:
            epoch, epoch_order, mine, group = places.of(step)
            for part in np.split(mine, passes):
                positions += part.tolist()
                images += epoch_order[part].tolist()
            groups += range(group, group + len(mine) // stream.mix_group) if stream.mix_group else []
            epochs.add(epoch)
        (epoch,) = epochs
        found.append((epoch, positions, images, groups))
    return found


def exactly_once(plan: Plan, found: Seen) -> None:
    """The contract of an epoch, from the images and the base order alone. AssertionError where it is broken."""
    views, count = plan.views, sum(plan.shards)
    for epoch in range(EPOCHS):
        mine = [step for step in found if step[0] == epoch]
        length = count // 256 * 256 if views.order == "deit" else count
        kept = length // views.batch_size * views.batch_size
        shown = dict(zip(flat(mine, 1), flat(mine, 2), strict=True))
        assert flat(sorted_steps(mine), 1) == list(range(kept))  # every position once: the tail alone is dropped
        assert len(shown) == kept
        counts = Counter(shown.values())
        assert max(counts.values()) <= views.repeats and set(counts) <= set(range(count))
        if views.order != "deit":
            base = base_order(plan, epoch)
            assert sorted(base) == list(range(count))
            assert [shown[position] for position in range(kept)] == [base[p // views.repeats] for p in range(kept)]
            full, rest = divmod(kept, views.repeats)
            assert counts == Counter(dict.fromkeys(base[:full], views.repeats)) + Counter(
                {base[min(full, count - 1)]: rest}
            )
        if plan.stream.mix_group:
            assert flat(mine, 3) == list(range(kept // views.mix_group))
            groups = np.reshape(flat(mine, 2), (-1, views.mix_group))
            assert views.order == "deit" or all(len(set(group)) == len(group) for group in groups.tolist())


def flat(steps: Seen, column: int) -> list[int]:
    """One column of all steps."""
    return [value for step in steps for value in step[column]]


def sorted_steps(steps: Seen) -> Seen:
    """Each batch's positions in order: mixing groups rearrange places inside a batch, never across batches."""
    return [(epoch, sorted(positions), images, groups) for epoch, positions, images, groups in steps]


def base_order(plan: Plan, epoch: int) -> list[int]:
    """An epoch's order before views are repeated."""
    views = plan.views
    if views.order == "block":
        return order.block(index_of(plan.shards).shard_of, views.window, views.seed, epoch).tolist()
    return order.permutation(sum(plan.shards), views.seed, epoch).tolist()


def holds(plan: Plan) -> None:
    """The whole promise for one plan. AssertionError where it is broken."""
    alone = seen(plan, 1, 1, 0)
    exactly_once(plan, alone)
    assert seen(plan, plan.world, 1, 0) == alone  # the order, not only which images
    assert seen(plan, plan.world, plan.passes, plan.first) == alone[plan.first :]


@given(plans())
@settings(CALM, max_examples=1000)
def test_epoch__every_image_as_often_as_the_contract_says_in_one_order_for_every_layout(plan: Plan) -> None:
    holds(plan)


def one_too_far(self: Rank, batch_size: int) -> slice:
    """Off by one: neighbours share an image, and the last loses one."""
    share = batch_size // self.world
    return slice(self.index * share + (self.index > 0), (self.index + 1) * share + (self.index > 0))


def exchanged(self: Rank, batch_size: int) -> slice:
    """The right images, in another order for more than one rank."""
    share = batch_size // self.world
    place = self.world - 1 - self.index
    return slice(place * share, (place + 1) * share)


true_of, true_block, true_repeated = _Places.of, order.block, order.repeated


def sliding(self: Any, step: int) -> Any:
    """Every batch begins one position late: one image of an epoch is dropped, and one comes from the tail."""
    epoch, images, positions, group = true_of(self, step)
    return epoch, images, (positions + 1) % len(images), group


def restarting(self: Any, step: int) -> Any:
    """A process that goes on begins its epoch's order anew."""
    self.begun = getattr(self, "begun", step)
    return true_of(self, step - self.begun % self.steps_per_epoch)


def lossy(*arguments: Any) -> np.ndarray:
    """The last window's first image twice, another never."""
    images = true_block(*arguments)
    images[0] = images[-1]
    return images


BREAKS: dict[str, tuple[Any, str, Any]] = {
    "a rank's slice is off by one": (Rank, "slice", one_too_far),
    "ranks exchange their slices": (Rank, "slice", exchanged),
    "batches begin one position late": (_Places, "of", sliding),
    "a restart begins its epoch anew": (_Places, "of", restarting),
    "a window doubles one image and loses another": (order, "block", lossy),
    "views of an image are not repeated": (order, "repeated", lambda images, _: images),
}


@pytest.mark.parametrize("fault", BREAKS)
def test_epoch__a_wrong_order_is_caught_by_the_same_property(fault: str) -> None:
    """Negative controls: hypothesis finds a plan that breaks the promise within a few tries."""
    where, name, wrong = BREAKS[fault]

    @given(plans())
    @settings(CALM, max_examples=200, database=None, derandomize=True, phases=[Phase.generate])
    def property_(plan: Plan) -> None:
        holds(plan)

    with mock.patch.object(where, name, wrong), pytest.raises(AssertionError):
        property_()


def number(data: bytes, *rest: Any) -> None:
    """Instead of decoding: the image's number into every view of it, a byte a channel."""
    for place in rest[-1]:
        for channel in range(3):
            place[channel] = data[channel]


@given(plans(), st.integers(0, 4), st.integers(1, 4))
@settings(CALM, max_examples=40)
def test_loader__gives_the_planned_images_in_the_planned_order_with_its_threads(
    plan: Plan, workers: int, ahead: int
) -> None:
    """The product's loader, all but decoding: pixels, labels and positions tell which image stands where."""
    planned = seen(plan, 1, 1, plan.first)
    with mock.patch.object(photo, "show", number):
        parts = [
            list(batches.batches(plan.stream, plan.first, plan.last, Rank(rank, plan.world), workers, ahead))
            for rank in range(plan.world)
        ]
    for together, (_, positions, images, _) in zip(zip(*parts, strict=True), planned, strict=True):
        read = [batch.images[:, :, 0, 0].numpy().astype(np.int64) @ [1, 1 << 8, 1 << 16] for batch in together]
        assert np.concatenate(read).tolist() == images
        assert np.concatenate([batch.labels for batch in together]).tolist() == images
        assert np.concatenate([batch.positions for batch in together]).tolist() == positions


def evaluated(count: int, batch_size: int, world: int, workers: int) -> Iterator[list[int]]:
    """Of each rank: the images that evaluation looks at."""
    index = index_of((count,))
    with mock.patch.object(photo, "show", number):
        for rank in range(world):
            found = each_once.each_once(index, Reader(), lambda *_: PIXEL, batch_size, workers, Rank(rank, world))
            yield [image for batch in found for image in batch.positions.tolist()]


def evaluated_once(count: int, batch_size: int, world: int, workers: int) -> None:
    """AssertionError unless all ranks together see each image once, in order."""
    assert list(itertools.chain(*evaluated(count, batch_size, world, workers))) == list(range(count))


@given(st.integers(1, 120), st.integers(1, 40), st.integers(1, 9), st.sampled_from([0, 0, 0, 2]))
@settings(CALM, max_examples=200)
def test_evaluation__sees_each_image_once_for_any_number_of_ranks(
    count: int, batch: int, world: int, workers: int
) -> None:
    evaluated_once(count, batch, world, workers)


def test_evaluation__a_share_that_overlaps_is_caught() -> None:
    """Negative control."""

    def wide(self: Rank, count: int) -> range:
        return range(count * self.index // self.world, min(count, count * (self.index + 1) // self.world + 1))

    with mock.patch.object(Rank, "share", wide), pytest.raises(AssertionError):
        evaluated_once(50, 7, 3, 0)
