"""One image in a shard: three members of a tar whose bytes and sizes follow from its manifest row and its image alone.

<key>.<jpg|png|webp> (the original bytes), <key>.cls (its label) and <key>.json. What timm's and webdataset's readers do not
find by such an ending (GIF, BMP, TIFF, ...) is stored as an RGB PNG of the very pixels decode() gives.
"""

import functools
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
    return image_at(row) + padded(row.stored_bytes) + len(behind(row))


def image_at(row: Row) -> int:
    """Place of the image's first byte in the sample: behind its header, which a long key makes longer."""
    return len(before(row, row.stored_bytes))


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
    return b"".join((before(row, len(data)), data, ZEROS[: -len(data) % BLOCK], behind(row)))


def end(written: int) -> int:
    """Zero bytes behind the last sample: two empty blocks, then up to a whole record, as tar does."""
    return 2 * BLOCK + -(written + 2 * BLOCK) % RECORD


def padded(size: int) -> int:
    """Bytes a member's content of `size` bytes takes."""
    return size + -size % BLOCK


def before(row: Row, size: int) -> bytes:
    """What stands before an image of `size` bytes."""
    name = f"{row.key}.{ENDINGS.get(row.format, 'png')}".encode()
    return _header(name, sum(name), size)


def behind(row: Row) -> bytes:
    """What stands behind an image and its padding: the label and the description."""
    key, label, described = row.key.encode(), b"%d" % row.label, description(row)
    letters = sum(key)
    return b"".join(
        (
            _header(key + b".cls", letters + _CLS, len(label)), label, ZEROS[: -len(label) % BLOCK],
            _header(key + b".json", letters + _JSON, len(described)), described, ZEROS[: -len(described) % BLOCK],
        )
    )  # fmt: skip


_quoted = json.JSONEncoder(ensure_ascii=False).encode  # of a string: straight to json's C code, in quotation marks
_quoted_again = functools.lru_cache(1 << 12)(_quoted)  # for what is said of many images


def description(row: Row) -> bytes:
    """The .json member: json.dumps(..., sort_keys=True, ensure_ascii=False) of these columns, in a fifth of its time."""
    (
        key, split, label, class_name, member, _, _, _, sha256, width, height, mode, kind, _, exif, _, _,
    ) = row  # fmt: skip
    return (
        f'{{"class_name": {_quoted_again(class_name)}, "exif": {exif}, "format": {_quoted_again(kind)}, "height": {height}, '
        f'"key": {_quoted(key)}, "label": {label}, "member": {_quoted(member)}, "mode": {_quoted_again(mode)}, '
        f'"sha256": "{sha256}", "split": {_quoted_again(split)}, "width": {width}}}'
    ).encode()


def _tarfile_header(name: str, size: int) -> bytes:
    """A GNU tar header with nothing in it that differs between two builds: no time, no user, mode 0644."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size, 0, 0o644
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict")


def _pattern() -> tuple[bytes, int]:
    """(tarfile's header with places for name, size and sum, the sum of the other bytes)."""
    header = _tarfile_header("", 0)
    other = header[100:124] + header[136:148] + header[156:]
    assert b"%" not in header
    return b"%b" + header[100:124] + b"%b\0" + header[136:148] + b"%06o\0 " + header[156:], sum(other) + 8 * ord(" ")


NAME, LARGEST = 100, 8**11  # bytes of a name, and of a member, that a plain header has room for
_PATTERN, _SUM = _pattern()


ZEROS = bytes(BLOCK)
_CLS, _JSON = sum(b".cls"), sum(b".json")


def _header(name: bytes, letters: int, size: int) -> bytes:
    """What tarfile writes for the name and size: by its own pattern where they fit in, as tarfile takes 30 times as long.

    letters: sum(name).
    """
    if len(name) > NAME or size >= LARGEST:
        return _tarfile_header(name.decode(), size)
    digits, their_sum = _octal(size)
    return _PATTERN % (name.ljust(NAME, b"\0"), digits, letters + their_sum)


@functools.lru_cache(1 << 12)
def _octal(size: int) -> tuple[bytes, int]:
    """(a header's size, sum of all its bytes but the name's)."""
    digits = b"%011o" % size
    return digits, _SUM + sum(digits)
