"""Writes one shard: a tar in webdataset's layout whose bytes depend on its images alone.

Each image gives <key>.<jpg|png|webp> (the original bytes), <key>.cls (its label) and <key>.json. What timm's and
webdataset's readers do not find by such an ending (GIF, BMP, TIFF, ...) is stored as an RGB PNG of the very pixels
decode() gives.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from stages.lib.core import files
from stages.lib.data.decode import decode
from stages.lib.data.endings import ENDINGS
from stages.lib.data.index_writer import Place
from stages.lib.data.manifest import Row
from stages.lib.data.raw import RawReader

BLOCK, RECORD = 512, 10240  # bytes; tar pads members to blocks and itself to records


@dataclass(frozen=True)
class Job:
    """One shard to be written, by any process."""

    source: Path
    target: Path
    split: str
    rows: Sequence[Row]


@dataclass(frozen=True)
class Shard:
    """A finished shard, as its sidecar remembers it."""

    sha256: str
    bytes: int
    places: list[Place]


def build(job: Job) -> Shard:
    """Write the shard, or take over the one an earlier, killed build finished. Raises Refusal where a raw image has changed."""
    sidecar = job.target.with_suffix(".json")
    finished = _finished(job.target, sidecar)
    if finished:
        return finished
    with files.replace(job.target) as temporary, RawReader(job.source) as reader, temporary.open("wb") as file:
        shard = _written(job, reader, file)
    with files.replace(sidecar) as temporary:
        temporary.write_text(json.dumps(asdict(shard)))
    return shard


def _finished(target: Path, sidecar: Path) -> Shard | None:
    """The shard its sidecar tells of, if every byte is there."""
    try:
        found = json.loads(sidecar.read_text())
        whole = target.stat().st_size == found["bytes"] and files.sha256(target) == found["sha256"]
        return Shard(found["sha256"], found["bytes"], [Place(*place) for place in found["places"]]) if whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _written(job: Job, reader: RawReader, file: io.BufferedWriter) -> Shard:
    tar = _Tar(file)
    places = []
    for row in job.rows:
        original = reader.read(row.member, row.offset, row.bytes, row.sha256)
        data, ending = stored(original, row.format)
        offset = tar.add(f"{row.key}.{ending}", data)
        tar.add(f"{row.key}.cls", str(row.label).encode())
        tar.add(f"{row.key}.json", _described(row))
        digest = row.sha256 if data is original else hashlib.sha256(data).hexdigest()
        places.append(
            Place(
                row.key,
                row.split,
                row.label,
                job.target.name,
                offset,
                len(data),
                digest,
                row.width,
                row.height,
                row.orientation,
            )
        )
    tar.end()
    return Shard(tar.digest.hexdigest(), tar.size, places)


def stored(original: bytes, kind: str) -> tuple[bytes, str]:
    """(bytes to store, their ending) of an image in Pillow's format `kind`."""
    if kind in ENDINGS:
        return original, ENDINGS[kind]
    picture: Image.Image = decode(original)
    with io.BytesIO() as file:
        picture.save(file, format="PNG")
        return file.getvalue(), "png"


def _described(row: Row) -> bytes:
    names = ("key", "split", "label", "class_name", "member", "sha256", "width", "height", "mode", "format", "exif")
    return json.dumps({name: getattr(row, name) for name in names}, sort_keys=True, ensure_ascii=False).encode()


class _Tar:
    """GNU tar headers with nothing in them that differs between two builds: no time, no user, mode 0644."""

    def __init__(self, file: io.BufferedWriter) -> None:
        self.file, self.size, self.digest = file, 0, hashlib.sha256()

    def add(self, name: str, data: bytes) -> int:
        """Offset of the member's bytes."""
        info = tarfile.TarInfo(name)
        info.size, info.mtime, info.mode = len(data), 0, 0o644
        self._write(info.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict"))
        offset = self.size
        self._write(data + b"\0" * (-len(data) % BLOCK))
        return offset

    def end(self) -> None:
        """Two empty blocks, then up to a whole record, as tar does."""
        self._write(b"\0" * (2 * BLOCK + -(self.size + 2 * BLOCK) % RECORD))

    def _write(self, data: bytes) -> None:
        self.file.write(data)
        self.digest.update(data)
        self.size += len(data)
