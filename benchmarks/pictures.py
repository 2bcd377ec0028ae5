"""Any JPEGs -> shards and an index like the pipeline's, in a folder of the benchmark's own."""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from stages.lib.core.outcome import Refusal
from stages.lib.data.index import Index, read_index
from stages.lib.ingestion import index_writer
from stages.lib.ingestion.index_writer import Place
from stages.lib.ingestion.manifest import Row
from stages.lib.ingestion.reencode import encode, is_stored_anew
from stages.lib.params.shard import Store

MOST = 2000
"""Images taken from a source that has more, at random: enough for every path, and read once in seconds."""
PER_SHARD = 100
JPEG = b"\xff\xd8\xff"
"""How every JPEG begins: names are not asked."""
CLASSES = ("one", "other")


class Found(NamedTuple):
    """A file, or the part of a tar that is one."""

    path: Path
    offset: int
    """In the (decompressed) tar; -1: the file itself."""
    size: int


@dataclass(frozen=True)
class Pictures:
    """JPEGs in shards."""

    jpegs: Sequence[bytes]
    """Each once."""
    index: Index
    """Where an epoch is longer than `jpegs`, each of them has several rows, a shard's length apart."""
    folder: Path
    """Of the shards."""
    jpeg_of: np.ndarray
    """i64[rows]: which of `jpegs` a row of the index is."""

    @property
    def shards(self) -> list[Path]:
        """The tars, in order."""
        return [self.folder / name for name in self.index.shards]


def collect(source: Path, most: int = MOST) -> tuple[list[bytes], int]:
    """At most `most` JPEGs that Pillow can read, and how many were passed over as broken.

    source: a tar, or a folder that holds JPEGs or tars at any depth. Raises Refusal where there is nothing to be found.
    """
    if not source.exists():
        raise Refusal(
            f"--images {source}: there is no such file or folder; name a tar, a folder of JPEGs, or of shards"
        )
    everything = list(_listed(source))
    jpegs: list[bytes] = []
    broken = 0
    order = np.random.default_rng(0).permutation(len(everything))
    for start in range(0, len(order), most):  # in parts, each read in the order in which it lies
        for data in _read([everything[place] for place in sorted(order[start : start + most])]):
            if len(jpegs) < most and data.startswith(JPEG):
                good = _readable(data)
                broken += not good
                if good:
                    jpegs.append(data)
        if len(jpegs) == most:
            break
    if not jpegs:
        raise Refusal(
            f"--images {source}: of {len(everything)} files in there none is a JPEG that Pillow can read ({broken} broken); "
            "name a tar, a folder of JPEGs, or of shards (archives within archives have to be unpacked first)"
        )
    return jpegs, broken


def shelve(jpegs: Sequence[bytes], folder: Path, least: int = 0) -> Pictures:
    """Write the shards and an index of at least `least` rows, if necessary by naming every image several times."""
    folder.mkdir(parents=True)
    rounds = -(-max(least, len(jpegs)) // len(jpegs))
    places: list[Place] = []
    jpeg_of: list[int] = []
    facts = {}
    for start in range(0, len(jpegs), PER_SHARD):
        name = f"pictures-train-{start // PER_SHARD:06d}.tar"
        part = list(range(start, min(start + PER_SHARD, len(jpegs))))
        offsets = _write_tar(folder / name, [(f"{image:08d}", jpegs[image]) for image in part])
        for turn in range(rounds):
            places += [
                _place(image, turn, name, offset, jpegs[image]) for image, offset in zip(part, offsets, strict=True)
            ]
            jpeg_of += part
        tar = (folder / name).read_bytes()
        facts[name] = {
            "sha256": hashlib.sha256(tar).hexdigest(),
            "bytes": len(tar),
            "images": len(part),
            "split": "train",
        }
    index_writer.write(folder / "pictures.parquet", places, CLASSES, facts)
    return Pictures(jpegs, read_index(folder / "pictures.parquet", "train"), folder, np.array(jpeg_of))


def shortened(jpeg: bytes, side: int = 320, quality: int = 90) -> bytes:
    """What `shard.store: {short_side: side, quality: quality, subsampling: "4:4:4"}` keeps of the image."""
    with Image.open(io.BytesIO(jpeg)) as image:
        width, height = image.size
    row = Row("", "train", 0, "", "", "", -1, len(jpeg), "", width, height, "RGB", "JPEG", 1, 1, len(jpeg), "")
    store = Store(short_side=side, quality=quality, subsampling="4:4:4")
    return encode(jpeg, row, store, measured=False)[0] if is_stored_anew(row, store) else jpeg


def _place(image: int, turn: int, shard: str, offset: int, jpeg: bytes) -> Place:
    with Image.open(io.BytesIO(jpeg)) as opened:
        width, height = opened.size
    sha256 = hashlib.sha256(jpeg).hexdigest()
    return Place(f"{image:08d}-{turn}", "train", image % 2, shard, offset, len(jpeg), sha256, width, height, 1)


def _write_tar(path: Path, images: Sequence[tuple[str, bytes]]) -> list[int]:
    """Samples as the pipeline's: image, label, description. Returns where each image's bytes begin.

    In pieces of 1 MiB, as stages.shard writes: the page cache then holds a file in large pages, out of which reading copies two to
    three times as fast as out of small ones.
    """
    offsets = []
    with (
        path.open("wb", buffering=1 << 20) as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar,
    ):
        for number, (key, jpeg) in enumerate(images):
            described = json.dumps({"key": key, "split": "train", "member": f"{key}.jpg"}).encode()
            for suffix, data in (("jpg", jpeg), ("cls", str(number % 2).encode()), ("json", described)):
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(data)
                if suffix == "jpg":
                    offsets.append(tar.offset + len(info.tobuf(tarfile.GNU_FORMAT)))
                tar.addfile(info, io.BytesIO(data))
    return offsets


def _listed(source: Path) -> Iterator[Found]:
    """Every file, those inside tars too; nothing is read but the tars' headers."""
    paths = (
        [source] if source.is_file() else sorted(Path(at) / name for at, _, names in os.walk(source) for name in names)
    )
    for path in paths:
        if not path.is_file():
            continue  # a broken link, a socket
        if (path != source and path.suffix != ".tar") or not tarfile.is_tarfile(path):
            yield Found(path, -1, path.stat().st_size)
            continue
        with tarfile.open(path) as tar:
            for member in tar:
                if member.isreg():
                    yield Found(path, member.offset_data, member.size)
                tar.members = []  # type: ignore[attr-defined]  # else a kilobyte for each of a million


def _read(found: Sequence[Found]) -> Iterator[bytes]:
    """The files' bytes, in the order given; one tar is open at a time."""
    tar: tarfile.TarFile | None = None
    for file in found:
        if file.offset < 0:
            yield file.path.read_bytes()
            continue
        if tar is None or Path(str(tar.name)) != file.path.absolute():
            if tar:
                tar.close()
            tar = tarfile.open(file.path)
        assert tar.fileobj is not None
        tar.fileobj.seek(file.offset)
        yield tar.fileobj.read(file.size)
    if tar:
        tar.close()


def _readable(jpeg: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(jpeg)) as image:
            image.convert("RGB")
        return True
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False
