"""Batches: the same bytes for every number of ranks, loader threads and restarts."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.lib.core.outcome import Refusal
from stages.lib.core.ranks import Rank
from stages.lib.data.answers import Answers
from stages.lib.data.batch import Batch
from stages.lib.data.batches import batches
from stages.lib.data.classifier_stream import stream_of
from stages.lib.data.index import read_index
from stages.lib.data.masking import noise_of
from stages.lib.data.pixels import classifier_pixels
from stages.lib.data.shards import ShardReader
from stages.lib.params.views import Views
from tests.workspace import SET

VIEWS = Views(
    seed=3,
    epochs=2,
    batch_size=48,
    image_size=16,
    repeats=3,
    randaugment="rand-m9-mstd0.5-inc1",
    erase=0.5,
    mixup=0.8,
    cutmix=1.0,
    mix_group=8,
)
STEPS = 11  # over an epoch's border: 432 training images make 9 steps


def stream(project: Path, views: Views = VIEWS):  # type: ignore[no-untyped-def]
    index = read_index(project / f"data/index/{SET}.parquet", "train")
    return dataclasses.replace(
        stream_of(views, index, ShardReader(index, project / f"data/shards/{SET}"), 4), noise=noise_of("random", 4, 4)
    )


def digest(*parts: list[Batch]) -> str:
    """One hash of every byte of global batches, each given as its ranks' parts."""
    found = hashlib.sha256()
    for together in zip(*parts, strict=True):
        for name in ("images", "labels", "positions", "noise", "keep"):
            found.update(torch.cat([getattr(batch, name) for batch in together]).numpy().tobytes())
        for rank, batch in enumerate(together):
            for place, erasure in batch.erasures:
                where = rank * len(batch.images) + place
                found.update(f"{where} {erasure.top} {erasure.left}".encode() + erasure.noise.tobytes())
        found.update(repr([mix for batch in together for mix in batch.mixes]).encode())
    return found.hexdigest()


def read(project: Path, world: int, workers: int, first: int = 0, views: Views = VIEWS) -> str:
    ranks = [list(batches(stream(project, views), first, STEPS, Rank(r, world), workers, 2)) for r in range(world)]
    return digest(*ranks)


def test_batches__one_hash_for_ranks_and_workers(project: Path) -> None:
    assert len({read(project, world, workers) for world in (1, 2) for workers in (0, 1, 3)}) == 1


@pytest.mark.parametrize(("world", "passes"), [(1, 2), (1, 3), (2, 3), (3, 2), (6, 1)])
def test_batches__one_hash_for_ranks_and_passes(project: Path, world: int, passes: int) -> None:
    """Each rank's batch divided for accumulation: put together again, every byte, erasure and mix is in its place."""
    ranks = [list(batches(stream(project), 0, 3, Rank(r, world), 1, 2)) for r in range(world)]
    divided = [[batch.parts(passes)[number] for batch in rank] for rank in ranks for number in range(passes)]
    whole = list(batches(stream(project), 0, 3, Rank(), 0, 1))
    assert digest(*divided) == digest(whole)
    assert digest(*reversed(divided)) != digest(whole)  # control: parts in another order
    pixels = torch.cat([classifier_pixels(part[0]) for part in divided])
    assert torch.equal(pixels, classifier_pixels(whole[0]))


def test_batches__parts_that_are_not_whole_groups_are_an_error(project: Path) -> None:
    batch = next(batches(stream(project), 0, 1, Rank(), 0, 1))
    with pytest.raises(ValueError, match="48 images in 6 mixing groups are no 4 equal parts"):
        batch.parts(4)


def test_batches__another_seed_is_another_hash(project: Path) -> None:
    """Negative control: the hash sees the pixels."""
    assert read(project, 1, 0) != read(project, 1, 0, views=VIEWS.model_copy(update={"seed": 4}))


def test_batches__a_restart_goes_on_with_the_same_bytes(project: Path) -> None:
    whole = list(batches(stream(project), 0, STEPS, Rank(), 1, 2))
    assert read(project, 1, 0, first=7) == digest(whole[7:])


def test_batches__answers_are_about_the_same_positions_for_ranks_workers_and_restarts(project: Path) -> None:
    """A store that answers with 1000 * epoch + position: what a batch carries is about its own images, whoever reads it."""

    def said(epoch: int, positions: np.ndarray) -> Answers:
        return Answers(torch.from_numpy(1000 * epoch + positions))

    asking = dataclasses.replace(stream(project), answers=said)
    for world, workers, first in ((1, 0, 0), (1, 3, 7), (2, 1, 0)):
        for rank in range(world):
            for step, batch in enumerate(batches(asking, first, STEPS, Rank(rank, world), workers, 2), start=first):
                assert batch.answers is not None
                assert torch.equal(batch.answers.hard, 1000 * (step // asking.steps_per_epoch) + batch.positions)
                assert len(batch.answers) == len(batch.images)
    assert all(batch.answers is None for batch in batches(stream(project), 0, 1, Rank(), 0, 1))


def test_batches__views_of_an_image_differ_and_never_meet_in_a_mixing_group(project: Path) -> None:
    batch = next(batches(stream(project), 0, 1, Rank(), 0, 1))
    images = stream(project).order(0)[batch.positions.numpy()]
    assert len(np.unique(images)) == VIEWS.batch_size // VIEWS.repeats
    for group in images.reshape(-1, VIEWS.mix_group):
        assert len(np.unique(group)) == VIEWS.mix_group
    same = np.flatnonzero(images == images[0])
    assert len(same) == VIEWS.repeats
    assert not torch.equal(batch.images[int(same[0])], batch.images[int(same[1])])
    assert len(batch.mixes) == VIEWS.batch_size // VIEWS.mix_group


def test_batches__ranks_that_split_a_mixing_group_are_refused(project: Path) -> None:
    with pytest.raises(Refusal, match="no whole mixing groups"):
        next(batches(stream(project), 0, 1, Rank(0, 4), 0, 1))


def test_batches__a_failing_image_is_an_error_not_a_hang(project: Path) -> None:
    broken = dataclasses.replace(stream(project), view=lambda *_: 1 / 0)  # type: ignore[arg-type,return-value]
    with pytest.raises(ZeroDivisionError):
        list(batches(broken, 0, 2, Rank(), 3, 2))
