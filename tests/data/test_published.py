"""Shards streamed from a bucket: the pixels of local files whatever happens on the way, in bounded room."""

import contextlib
import dataclasses
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stages.lib.core.outcome import Refusal
from stages.lib.core.ranks import Rank
from stages.lib.core.s3 import Unavailable
from stages.lib.data.batches import batches
from stages.lib.data.classifier_stream import stream_of
from stages.lib.data.each_once import each_once
from stages.lib.data.index import Index, read_index
from stages.lib.data.preparation import Preparation
from stages.lib.data.published import Published
from stages.lib.data.shard_cache import ShardCache, Wanted
from stages.lib.data.shards import ShardReader
from stages.lib.params.views import Views
from tests.ingestion.raw_project import RawProject, png
from tests.s3 import FAULTS, PASSING, Server
from tests.workspace import environment

VIEWS = Views(seed=3, epochs=2, batch_size=8, image_size=16, order="block", window=2, scale=(0.5, 1.0), hflip=0.0)
STEPS = 10  # two epochs of 40 images in ten shards
Place = Callable[[float], Published]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> RawProject:
    """40 training images in ten shards, 8 for validation in two; nobody changes it."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("TUTELAGE_RUNS", "TUTELAGE_RAW", "DVC_ROOT"):
            patch.delenv(variable, raising=False)
        project = RawProject(tmp_path_factory.mktemp("published") / "project", patch)
        files = {f"train/{name}/{n}.png": png(20 * k + n) for k, name in enumerate("ab") for n in range(20)}
        project.tree(files | {f"val/{name}/{n}.png": png(100 + n) for name in "ab" for n in range(4)})
        project.params("shard", images_per_shard=4)
        project.run("scan", "ingest", "shard")
    for number, handler in handlers.items():
        signal.signal(number, handler)
    return project


@pytest.fixture(scope="module")
def local(made: RawProject) -> str:
    """The hash of the pixels of local files."""
    return digest(made.index(), made.shards)


@pytest.fixture
def away(made: RawProject, s3: Server, tmp_path: Path) -> Place:
    """Where the shards lie that are not here; called with the cache's room in shards."""
    for path in made.shards.iterdir():
        s3.put(f"shards/things/{path.name}", path.read_bytes())
    s3.proxy.seen.clear()
    largest = max(made.index().shard_bytes)

    def place(shards: float) -> Published:
        return Published(
            tmp_path / "here", f"{s3.uri}/shards/things", ShardCache(tmp_path / "cache", int(shards * largest))
        )

    return place


def digest(index: Index, shards: Path | Published, workers: int = 2, views: Views = VIEWS) -> str:
    """One hash of every pixel and label of two epochs."""
    stream = stream_of(views, index, ShardReader(index, shards), 0)
    found = hashlib.sha256()
    for batch in batches(stream, 0, STEPS, Rank(), workers, 2):
        found.update(batch.images.numpy().tobytes() + batch.labels.numpy().tobytes())
    return found.hexdigest()


def held(cache: ShardCache) -> int:
    sizes = []
    for path in cache.folder.glob("*"):  # unfinished ones too
        with contextlib.suppress(FileNotFoundError):
            sizes.append(path.stat().st_size)
    return sum(sizes)


@pytest.mark.parametrize(("room", "workers"), [(2.0, 3), (4.5, 3), (4.5, 0), (100.0, 3)])
def test_streamed__the_pixels_of_local_files_in_bounded_room(
    made: RawProject, away: Place, s3: Server, local: str, room: float, workers: int
) -> None:
    index, place, most = made.index(), away(room), [0]
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.002):
            most[0] = max(most[0], held(place.cache))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        assert digest(index, place, workers) == local
    finally:
        stop.set()
        watcher.join()
    assert 0 < held(place.cache) <= place.cache.limit and most[0] <= place.cache.limit
    fetched = [one for one in s3.seen if one.method == "GET" and one.key.endswith(".tar")]
    assert not any("val" in one.key for one in fetched)
    if room == 100.0:
        assert len(fetched) == len(index.shards)  # once each, for both epochs
    if room == 4.5:
        assert len(fetched) <= 2 * len(index.shards) + 2  # whole shards in order, not an image at a time


def test_streamed__another_order_gives_another_hash(made: RawProject, away: Place, local: str) -> None:
    """Negative control: the hash sees which images came."""
    other = VIEWS.model_copy(update={"seed": 4})
    assert digest(made.index(), away(5), views=other) != local


def test_streamed__each_image_once(made: RawProject, away: Place) -> None:
    index = made.index("val")
    seen = []
    for batch in each_once(index, ShardReader(index, away(1)), Preparation(4, 1.0).frame, 3, 2):
        seen += batch.positions.tolist()
    assert seen == list(range(8))


def test_streamed__shards_that_are_here_are_read_here(made: RawProject, away: Place, s3: Server, local: str) -> None:
    index = made.index()
    place = away(5)
    place.folder.mkdir()
    for name in index.shards[:5]:
        os.link(made.shards / name, place.folder / name)
    assert digest(index, place) == local
    assert {one.key.split("/")[-1] for one in s3.seen} == set(index.shards[5:])


@pytest.mark.parametrize("kind", FAULTS)
def test_fault__that_passes_gives_the_right_pixels_and_one_that_cannot_says_what_to_do(
    made: RawProject, away: Place, s3: Server, local: str, kind: str
) -> None:
    index, place = made.index(), away(2)
    s3.faults(kind, key=r"\.tar$", **({"times": 3} if kind in PASSING else {}))
    if kind in PASSING:
        assert digest(index, place) == local
        assert s3.struck == 3
    else:
        words = {"expired": "expired .*Renew AWS_", "missing": r"no object 'shards/things/things-train-00000\d\.tar'"}[
            kind
        ]
        with pytest.raises(Refusal, match=rf"here/.*\.tar is not here, and shard.published_uri .*{words}"):
            digest(index, place)
    assert not [path for path in place.cache.folder.glob("*.tar") if not right(path)]


def right(path: Path) -> bool:
    """Whether a shard in the cache is what its name says."""
    return hashlib.sha256(path.read_bytes()).hexdigest() == path.name.split("-")[0]


def test_streamed__right_pixels_with_a_third_of_the_answers_spoilt(
    made: RawProject, away: Place, s3: Server, local: str
) -> None:
    index, place = made.index(), away(3)
    for number, kind in enumerate(("500", "cut", "flip")):
        s3.faults(kind, key=r"\.tar$", share=0.12, seed=number)
    assert digest(index, place) == local
    assert s3.struck


def test_streamed__a_shard_that_is_nowhere_is_an_error_and_no_shorter_epoch(
    made: RawProject, away: Place, s3: Server
) -> None:
    index, place = made.index(), away(5)
    gone = index.shards[7]
    s3.client.delete_object(Bucket=s3.bucket, Key=f"shards/things/{gone}")
    with pytest.raises(Refusal, match=rf"{gone} is not here, .* no object 'shards/things/{gone}'"):
        digest(index, place)
    with pytest.raises(Refusal, match=r"no shard .*things-train-.*dvc checkout"):
        digest(index, place.folder)  # not published either


def test_streamed__a_shard_of_another_build_is_refused(made: RawProject, away: Place, s3: Server) -> None:
    index, place = made.index(), away(5)
    key = f"shards/things/{index.shards[3]}"
    content = bytearray(s3.get(key))
    content[600] ^= 1
    s3.put(key, bytes(content))
    with pytest.raises(Refusal, match=rf"{index.shards[3]} has the sha256 .* is expected"):
        digest(index, place)
    s3.put(key, bytes(content) + b"more")
    with pytest.raises(Refusal, match="bytes instead of"):
        digest(index, place)


def test_streamed__an_order_the_cache_cannot_hold_is_refused_with_what_to_do(made: RawProject, away: Place) -> None:
    index = made.index()
    for views in (VIEWS.model_copy(update={"order": "permutation"}), VIEWS.model_copy(update={"window": 4})):
        words = r"shards of things \(train\) at the same time.* set order: block with a window of at most 3"
        with pytest.raises(Refusal, match=words):
            digest(index, away(3.5), views=views)
    assert digest(index, away(10), views=views) == digest(index, made.shards, views=views)
    with pytest.raises(Refusal, match=r"system.shard_cache_gb is .*; raise it"):
        ShardReader(index, away(0.5)).read(0)


def test_expect__brings_what_follows_before_it_is_asked_for(made: RawProject, away: Place, s3: Server) -> None:
    index = made.index()
    reader = ShardReader(index, away(4))
    order = np.arange(len(index))
    for position, expected in ((0, 4), (4, 5), (7, 5), (8, 6)):
        reader.expect(order, position)
        until(
            lambda: {one.key.split("/")[-1] for one in s3.seen if ".tar" in one.key and one.method == "GET"},
            expected,
            index,
        )
    assert reader.read(5) == ShardReader(index, made.shards).read(5)


def until(keys: Callable[[], set[str]], expected: int, index: Index) -> None:
    """Wait for exactly the first `expected` shards, and a moment longer for one too many."""
    for _ in range(500):
        if len(keys()) >= expected:
            break
        time.sleep(0.01)
    time.sleep(0.03)
    assert keys() == set(index.shards[:expected])


def wanted(s3: Server, number: int, size: int = 1000) -> Wanted:
    data = np.random.default_rng(number).bytes(size)
    return Wanted(s3.put(f"{number}.tar", data), hashlib.sha256(data).hexdigest(), size)


def test_cache__drops_what_was_not_used_for_longest(s3: Server, tmp_path: Path) -> None:
    cache, shards = ShardCache(tmp_path, 3000), [wanted(s3, number) for number in range(4)]

    def use(number: int) -> None:
        time.sleep(0.02)  # the clock of files moves in steps
        descriptor = cache.open(shards[number])
        assert hashlib.sha256(os.pread(descriptor, 2000, 0)).hexdigest() == shards[number].sha256
        os.close(descriptor)

    for number in (0, 1, 2, 0, 3):
        use(number)
    assert {path.name for path in tmp_path.glob("*.tar")} == {shards[n].name for n in (0, 2, 3)}
    assert s3.counts["GET", "0.tar"] == 1


def test_cache__a_reader_keeps_what_was_dropped(s3: Server, tmp_path: Path) -> None:
    cache, shards = ShardCache(tmp_path, 1000), [wanted(s3, number) for number in range(2)]
    first = cache.open(shards[0])
    os.close(cache.open(shards[1]))
    assert [path.name for path in tmp_path.glob("*.tar")] == [shards[1].name]
    assert hashlib.sha256(os.pread(first, 1000, 0)).hexdigest() == shards[0].sha256
    os.close(first)


def test_cache__many_threads_fetch_a_shard_once_and_never_take_more_room(s3: Server, tmp_path: Path) -> None:
    cache, shards, errors = ShardCache(tmp_path, 2000), [wanted(s3, number) for number in range(3)], []

    def work(seed: int) -> None:
        try:
            for number in np.random.default_rng(seed).integers(0, 3, 6).tolist():
                descriptor = cache.open(shards[number])
                assert hashlib.sha256(os.pread(descriptor, 2000, 0)).hexdigest() == shards[number].sha256
                os.close(descriptor)
                assert held(cache) <= 2000
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    same = ShardCache(tmp_path / "same", 2000)
    s3.proxy.seen.clear()
    threads = [threading.Thread(target=lambda: os.close(same.open(shards[0]))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert s3.counts == {("GET", "0.tar"): 1}


def test_cache__two_processes_share_it_and_a_killed_one_leaves_a_rest_to_go_on_with(s3: Server, tmp_path: Path) -> None:
    one = wanted(s3, 0, 300_000)
    code = (
        "import sys; from pathlib import Path; from stages.lib.data.shard_cache import ShardCache, Wanted\n"
        f"ShardCache(Path({str(tmp_path)!r}), 400_000).open(Wanted({one.uri!r}, {one.sha256!r}, {one.bytes}))"
    )
    s3.faults("stall", times=1)  # in the middle of the body, for as long as that process is patient
    process = subprocess.Popen([sys.executable, "-c", code], env=environment())
    part = tmp_path / f".{one.name}.part"
    while not part.exists():
        assert process.poll() is None
        time.sleep(0.02)
    assert ShardCache(tmp_path, 400_000)._begun(one) is None  # the other process has it
    assert ShardCache(tmp_path, 400_000)._begun(wanted(s3, 1, 200_000)) is None  # and its room
    process.kill()
    process.wait()
    part.write_bytes(np.random.default_rng(0).bytes(300_000)[:100_000])  # as far as it had come
    s3.proxy.seen.clear()
    os.close(ShardCache(tmp_path, 400_000).open(one))
    assert next(seen.range for seen in s3.seen).startswith("bytes=100000-")
    assert right(tmp_path / one.name) and not part.exists()


def test_cache__an_abandoned_rest_gives_up_its_room(s3: Server, tmp_path: Path) -> None:
    one, other = wanted(s3, 0), wanted(s3, 1)
    (tmp_path / f".{other.name}.part").write_bytes(b"half")
    os.close(ShardCache(tmp_path, 1500).open(one))
    assert [path.name for path in tmp_path.glob("*.tar")] == [one.name]
    assert not (tmp_path / f".{other.name}.part").exists()


def test_cache__after_a_failure_nothing_is_locked(s3: Server, tmp_path: Path) -> None:
    one = wanted(s3, 0)
    s3.faults("503")
    with pytest.raises(Unavailable):
        ShardCache(tmp_path, 1500).open(one)
    s3.heal()
    os.close(ShardCache(tmp_path, 1500).open(one))


def test_index__knows_every_shard(made: RawProject) -> None:
    index = made.index()
    for name, sha256, size in zip(index.shards, index.shard_sha256, index.shard_bytes, strict=True):
        data = (made.shards / name).read_bytes()
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (sha256, size)
    again = read_index(made.folder / "data/index/things.parquet", "val")
    assert dataclasses.asdict(again)["shard_sha256"] == made.index("val").shard_sha256
