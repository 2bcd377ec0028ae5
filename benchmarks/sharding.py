"""Building shards, ours against webdataset.ShardWriter: the same files, the same processes, alternating, by the clock on the wall.

    python -m benchmarks.sharding [<folder of images, or a tar of them>] [--cores 1]

Ours is what stages.shard does for its images: read each file, compare its sha256 with the manifest's, write image, label and
description, take the shard's sha256, write the sidecar and the rows of the index. ShardWriter reads and writes, and hashes
nothing. Neither flushes to the disk (stages.shard does so once, at its end). Files are in the page cache. With more than one
process both use the same ones, started before: what is compared is the work. webdataset imports torch, whose objects Python's
garbage collector would search (0.15 s a time) while ours runs; stages.shard never loads it, so what is there is frozen first.
"""

import argparse
import gc
import hashlib
import io
import json
import shutil
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import webdataset
from PIL import Image

from benchmarks.row import Row
from stages.lib.ingestion import index_writer, manifest, raw, shard_writer
from stages.lib.ingestion.shard_writer import Job, Shard

ROUNDS = 9
BYTES = 60_000_000  # of images in one measurement, at least two copies of one
MOST = 8_000  # images in one measurement
GOALS = {"large": 2.0, "small": 7.0}


def rows(images: Sequence[bytes], cores: int) -> Iterator[Row]:
    """Ours against ShardWriter for these images and for small ones made of them (32 x 32 pixels as PNG, as CIFAR's)."""
    for size, some in (("large", images), ("small", [_small(data) for data in images[:500]])):
        mean = sum(map(len, some)) / len(some)
        for described in (False, True):
            ours, reference, ratio = _measured(some, cores, described)
            members = "jpg, cls, json" if described else "jpg, cls"
            yield Row(
                path=f"shards of {mean / 1000:.1f} kB images, {cores} process{'es' * (cores > 1)}, reference writes {members}",
                ours=ours,
                reference=reference,
                ratio=ratio,
                goal=None if described else GOALS[size],
                unit="images/s",
                note="ours writes jpg, cls, json and two sha256",
            )


def _measured(images: Sequence[bytes], cores: int, described: bool) -> tuple[float, float, float]:
    """(ours, reference, in images/s: medians; median of the ratios of paired rounds)."""
    mean = sum(map(len, images)) / len(images)
    count = int(min(MOST, max(2 * cores, BYTES / mean)))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        listed = _lay_out(folder / "raw", images, count)
        parts = [listed[part::cores] for part in range(cores)]
        run: Callable[..., Iterator[Shard | None]] = map
        if cores > 1:
            spawn = get_context("spawn")
            run = stack.enter_context(ProcessPoolExecutor(cores, mp_context=spawn, initializer=gc.freeze)).map
        out = folder / "out"
        gc.collect()
        gc.freeze()
        stack.callback(
            gc.unfreeze
        )  # what stays frozen to the end, a library that torch brings takes for leaks and says so

        def ours() -> None:
            jobs = [
                Job(raw.Place(str(folder / "raw")), out / f"{n}.tar", "train", part) for n, part in enumerate(parts)
            ]
            shards = [shard for shard in run(shard_writer.build, jobs) if shard]
            found = [row for job, shard in zip(jobs, shards, strict=True) for row in shard_writer.places(job, shard)]
            index_writer.write(out / "index.parquet", found, ["a", "b"], {})

        def reference() -> None:
            tasks = [(folder / "raw", out / f"{n}-%06d.tar", part, described) for n, part in enumerate(parts)]
            list(run(_shard_writer, tasks))

        pairs = []
        for number in range(ROUNDS + 1):
            both = (ours, reference) if number % 2 else (reference, ours)
            took = {what: _seconds(what, out) for what in both}
            pairs.append((count / took[ours], count / took[reference]))
    del pairs[0]  # processes and caches warm up
    return (
        statistics.median(mine for mine, _ in pairs),
        statistics.median(theirs for _, theirs in pairs),
        statistics.median(mine / theirs for mine, theirs in pairs),
    )


def _seconds(work: Callable[[], None], out: Path) -> float:
    """On the wall, into an empty folder."""
    out.mkdir()
    began = time.perf_counter()
    work()
    took = time.perf_counter() - began
    shutil.rmtree(out)
    return took


def _shard_writer(task: tuple[Path, Path, Sequence[manifest.Row], bool]) -> None:
    """What a user of webdataset would write."""
    folder, pattern, listed, described = task
    with webdataset.ShardWriter(str(pattern), maxcount=10**9, maxsize=10**15, verbose=0) as sink:
        for row in listed:
            sample = {"__key__": row.key, "jpg": (folder / row.member).read_bytes(), "cls": row.label}
            if described:
                sample["json"] = json.dumps({"class_name": row.class_name, "member": row.member, "width": row.width})
            sink.write(sample)


def _lay_out(folder: Path, images: Sequence[bytes], count: int) -> list[manifest.Row]:
    """Files in class folders, and their manifest. Bytes are copied, never decoded: every format is called JPEG."""
    listed = []
    for number in range(count):
        data, label = images[number % len(images)], number % 100
        key = f"train/n{label:08d}/n{label:08d}_{number}"
        path = folder / f"{key}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        listed.append(
            manifest.Row(
                key, "train", label, f"class {label}", f"{key}.JPEG", "", -1, len(data), digest, 500, 375, "RGB", "JPEG", 1, 1,
                len(data), digest,
            )
        )  # fmt: skip
    return listed


def _small(data: bytes) -> bytes:
    """The picture as CIFAR has it: a PNG of 32 x 32, about 2.5 kB."""
    with Image.open(io.BytesIO(data)) as image, io.BytesIO() as file:
        image.convert("RGB").resize((32, 32), Image.Resampling.BICUBIC).save(file, format="PNG")
        return file.getvalue()


def fabricated(count: int = 64) -> list[bytes]:
    """Noisy JPEGs of about ImageNet's mean size, 107 kB, for a machine without photographs."""
    made = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        pixels = rng.integers(96, 160, (375, 500, 3), dtype=np.uint8)
        with io.BytesIO() as file:
            Image.fromarray(pixels).save(file, format="JPEG", quality=80)
            made.append(file.getvalue())
    return made


def images_at(path: Path) -> list[bytes]:
    """Every file with a JPEG's first bytes in a folder or a tar. Raises SystemExit where there is none."""
    if not path.exists():
        raise SystemExit(f"{path}: there is no such file or folder; name a folder of JPEGs or a tar of them")
    if path.is_dir():
        found = [file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()]
    else:
        with tarfile.open(path) as tar:
            found = [file.read() for member in tar if member.isfile() and (file := tar.extractfile(member))]
    jpegs = [data for data in found if data[:2] == b"\xff\xd8"]
    if not jpegs:
        raise SystemExit(f"{path}: of {len(found)} files none is a JPEG")
    return jpegs


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Building shards, ours against webdataset.ShardWriter.")
    parser.add_argument("images", type=Path, nargs="?", help="a folder of JPEGs or a tar of them; none: generated ones")
    parser.add_argument("--cores", type=int, default=1, help="processes for either side (default: 1)")
    options = parser.parse_args()
    for row in rows(images_at(options.images) if options.images else fabricated(), options.cores):
        sys.stdout.write(row.text() + "\n")


if __name__ == "__main__":
    main()
