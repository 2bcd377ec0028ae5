"""One image in a shard: three members of a tar whose bytes and sizes follow from its manifest row and its image alone.

<key>.<jpg|png|webp> (the original bytes), <key>.cls (its label) and <key>.json. What timm's and webdataset's readers do not
find by such an ending (GIF, BMP, TIFF, ...) is stored as an RGB PNG of the very pixels decode() gives.
"""

import hashlib
import json
import tarfile

from stages.lib.core.outcome import Refusal
from stages.lib.data.endings import ENDINGS
from stages.lib.ingestion.manifest import Row
from stages.lib.ingestion.stored import stored

BLOCK, RECORD = 512, 10240  # bytes; tar pads members to blocks and itself to records


def size(row: Row) -> int:
    """Bytes of the whole sample in the tar."""
    return image_at(row) + _padded(row.stored_bytes) + len(_behind(row))


def image_at(row: Row) -> int:
    """Place of the image's first byte in the sample: behind its header, which a long key makes longer."""
    return len(_header(_name(row), row.stored_bytes))


def sample(row: Row, original: bytes) -> bytes:
    """The whole sample. Raises Refusal where the image would be stored as other bytes than `ingest` recorded."""
    data, _ = stored(original, row.format)
    if len(data) != row.stored_bytes or (
        data is not original and hashlib.sha256(data).hexdigest() != row.stored_sha256
    ):
        raise Refusal(
            f"{row.key} is stored as other bytes than `ingest` recorded ({len(data):,} and {row.stored_bytes:,}): Pillow writes "
            "PNG another way now. Run `dvc repro` from `ingest` on with the packages of requirements.lock."
        )
    return assembled(row, data)


def assembled(row: Row, data: bytes) -> bytes:
    """The whole sample around the bytes that are stored."""
    return _header(_name(row), len(data)) + data + bytes(-len(data) % BLOCK) + _behind(row)


def end(written: int) -> int:
    """Zero bytes behind the last sample: two empty blocks, then up to a whole record, as tar does."""
    return 2 * BLOCK + -(written + 2 * BLOCK) % RECORD


def _name(row: Row) -> str:
    return f"{row.key}.{ENDINGS.get(row.format, 'png')}"


def _behind(row: Row) -> bytes:
    """The label and the description."""
    names = ("key", "split", "label", "class_name", "member", "sha256", "width", "height", "mode", "format", "exif")
    described = json.dumps({name: getattr(row, name) for name in names}, sort_keys=True, ensure_ascii=False)
    files = ((f"{row.key}.cls", str(row.label).encode()), (f"{row.key}.json", described.encode()))
    return b"".join(_header(name, len(data)) + data + bytes(-len(data) % BLOCK) for name, data in files)


def _header(name: str, size: int) -> bytes:
    """A GNU tar header with nothing in it that differs between two builds: no time, no user, mode 0644."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size, 0, 0o644
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict")


def _padded(size: int) -> int:
    return size + -size % BLOCK
