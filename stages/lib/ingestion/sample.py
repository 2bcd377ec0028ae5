"""One image in a shard: three members of a tar whose bytes and sizes follow from its manifest row and its image alone.

<key>.<jpg|png|webp> (the original bytes), <key>.cls (its label) and <key>.json. What timm's and webdataset's readers do not
find by such an ending (GIF, BMP, TIFF, ...) is stored as an RGB PNG of the very pixels decode() gives. Where `shard.store` has
made another image of it (reencode.py), the .json tells of the original and, under `stored`, of what lies here.
"""

import functools
import hashlib
import json
import tarfile

from stages.lib.core.outcome import Refusal
from stages.lib.data.endings import ENDINGS
from stages.lib.ingestion.manifest import Row
from stages.lib.ingestion.reencode import Anew
from stages.lib.ingestion.stored import stored

BLOCK, RECORD = 512, 10240  # bytes; tar pads members to blocks and itself to records


def size(row: Row) -> int:
    """Bytes of the whole sample in the tar."""
    return sum(map(len, around(row, row.stored_bytes))) + padded(row.stored_bytes)


def image_at(row: Row) -> int:
    """Place of the image's first byte in the sample: behind its header, which a long key makes longer."""
    return len(before(row, row.stored_bytes))


def sample(row: Row, original: bytes) -> bytes:
    """The whole sample of an image stored as it is. Raises Refusal as `as_it_is` does."""
    return assembled(row, as_it_is(row, original))


def as_it_is(row: Row, original: bytes) -> bytes:
    """The bytes to store. Raises Refusal where they would be other bytes than `ingest` recorded."""
    data, _ = stored(original, row.format)
    if len(data) != row.stored_bytes or (
        data is not original and hashlib.sha256(data).hexdigest() != row.stored_sha256
    ):
        raise Refusal(
            f"{row.key} is stored as other bytes than `ingest` recorded ({len(data):,} and {row.stored_bytes:,}): Pillow writes "
            "PNG another way now. Run `dvc repro` from `ingest` on with the packages of requirements.lock."
        )
    return data


def assembled(row: Row, data: bytes, anew: Anew | None = None) -> bytes:
    """The whole sample around the bytes that are stored."""
    front, back = around(row, len(data), anew)
    return b"".join((front, data, ZEROS[: -len(data) % BLOCK], back))


def end(written: int) -> int:
    """Zero bytes behind the last sample: two empty blocks, then up to a whole record, as tar does."""
    return 2 * BLOCK + -(written + 2 * BLOCK) % RECORD


def padded(size: int) -> int:
    """Bytes a member's content of `size` bytes takes."""
    return size + -size % BLOCK


def before(row: Row, size: int, anew: Anew | None = None) -> bytes:
    """What stands before an image of `size` bytes."""
    return around(row, size, anew)[0]


def around(row: Row, size: int, anew: Anew | None = None) -> tuple[bytes, bytes]:
    """(what stands before an image, what stands behind it and its padding: its label and its description)."""
    key, described = row.key.encode(), description(row, anew)
    dotted, letters = _ENDED["jpg" if anew else ENDINGS.get(row.format, "png")]
    if len(key) > NAME - len(b".json") or size >= LARGEST:
        return _around_slowly(row, key + dotted, size, described)
    mine = sum(key)
    digits, other = _octal(size)
    front = _PATTERN % ((key + dotted).ljust(NAME, ZERO), digits, other + letters + mine)
    label_digits, label, label_sum = _labelled(row.label)
    digits, other = _octal(len(described))
    back = _BEHIND % (
        (key + b".cls").ljust(NAME, ZERO), label_digits, label_sum + mine, label,
        (key + b".json").ljust(NAME, ZERO), digits, other + _JSON + mine, described, ZEROS[: -len(described) % BLOCK],
    )  # fmt: skip
    return front, back


_quoted = json.JSONEncoder(ensure_ascii=False).encode  # of a string: straight to json's C code, in quotation marks
_quoted_again = functools.lru_cache(1 << 12)(_quoted)  # for what is said of many images


def description(row: Row, anew: Anew | None = None) -> bytes:
    """The .json member: json.dumps(..., sort_keys=True, ensure_ascii=False) of these columns, in a fifth of its time."""
    (
        key, split, label, class_name, member, _, _, _, sha256, width, height, mode, kind, _, exif, _, _,
    ) = row  # fmt: skip
    about = f', "stored": {{"height": {anew.height}, "sha256": "{anew.sha256}", "width": {anew.width}}}' if anew else ""
    return (
        f'{{"class_name": {_quoted_again(class_name)}, "exif": {exif}, "format": {_quoted_again(kind)}, "height": {height}, '
        f'"key": {_quoted(key)}, "label": {label}, "member": {_quoted(member)}, "mode": {_quoted_again(mode)}, '
        f'"sha256": "{sha256}", "split": {_quoted_again(split)}{about}, "width": {width}}}'
    ).encode()


def _tarfile_header(name: str, size: int) -> bytes:
    """A GNU tar header with nothing in it that differs between two builds: no time, no user, mode 0644."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size, 0, 0o644
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict")


def _around_slowly(row: Row, name: bytes, size: int, described: bytes) -> tuple[bytes, bytes]:
    """The same by tarfile, which takes 30 times as long, for what a plain header has no room for."""
    label, back = b"%d" % row.label, b""
    for ending, content in (("cls", label), ("json", described)):
        back += _tarfile_header(f"{row.key}.{ending}", len(content)) + content + ZEROS[: -len(content) % BLOCK]
    return _tarfile_header(name.decode(), size), back


def _pattern() -> tuple[bytes, int]:
    """(tarfile's header with places for name, size and sum; the sum of its other bytes)."""
    header = _tarfile_header("", 0)
    assert b"%" not in header
    other = header[100:124] + header[135:148] + header[156:]
    pattern = b"%b" + header[100:124] + b"%b" + header[135:148] + b"%06o\0 " + header[156:]
    return pattern, sum(other) + 8 * ord(" ")


NAME, LARGEST = 100, 8**11  # bytes of a name, and of a member, that a plain header has room for
ZERO, ZEROS = bytes(1), bytes(BLOCK)
_PATTERN, _SUM = _pattern()
_BEHIND = _PATTERN + b"%b" + _PATTERN + b"%b%b"
_ENDED = {ending: (f".{ending}".encode(), sum(f".{ending}".encode())) for ending in ("png", *ENDINGS.values())}
_JSON = sum(b".json")


@functools.lru_cache(1 << 12)
def _octal(size: int) -> tuple[bytes, int]:
    """(a header's size, sum of all its bytes but the name's)."""
    digits = b"%011o" % size
    return digits, _SUM + sum(digits)


@functools.lru_cache(1 << 15)
def _labelled(label: int) -> tuple[bytes, bytes, int]:
    """(size of a .cls member, the member, sum of its header's bytes but the key's)."""
    text = b"%d" % label
    digits, other = _octal(len(text))
    return digits, text.ljust(BLOCK, ZERO), other + sum(b".cls")
