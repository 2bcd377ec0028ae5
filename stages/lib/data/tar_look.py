"""One look at a whole tar of a set: is every byte as the index says, and which images does it really hold?"""

import hashlib
import json
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import pandas as pd

from stages.lib.core.tar_headers import Headers

MOST_DIGITS = 9  # of a class number; it goes into 32 bits
MOST_JSON, MOST_IMAGE = 1 << 20, 1 << 30  # bytes that are looked at; larger ones are not what `shard` writes


@dataclass(frozen=True)
class Look:
    """What one tar turned out to hold."""

    bytes: int
    sha256: str
    problem: str
    found: pd.DataFrame  # key, offset, label, original's sha256 and stored size of every image in it
    match: np.ndarray  # bool, one an index row: the bytes at its place have its sha256


class Anew(NamedTuple):
    """An image that `shard.store` has made anew."""

    original_sha256: str
    """Of the file it was made of, as its .json tells."""
    width: int
    """Pixels, in its own header; -1: it is not the JPEG that its .json tells of."""
    height: int


def look(path: Path, rows: pd.DataFrame) -> Look:
    """Read one tar whole: its digest, the digest of every payload the index places in it, and the members it really has."""
    try:
        file = path.open("rb")
    except OSError as error:
        return Look(-1, "", str(error.strerror), members_table([], {}, {}), np.zeros(len(rows), dtype=bool))
    with file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = os.fstat(file.fileno()).st_size
        places = zip(rows["offset"], rows["size"], rows["sha256"], strict=True)
        match = [payload_sha256(file, int(offset), int(length)) == expected for offset, length, expected in places]
        found, problem = members(file)
    return Look(size, digest, problem, found, np.array(match, dtype=bool))


def payload_sha256(file: BinaryIO, offset: int, size: int) -> str:
    """Of `size` bytes at `offset`; of fewer where the file ends."""
    there = os.fstat(file.fileno()).st_size - offset  # no memory for bytes that an index claims
    inside = offset >= 0 and size >= 0 and there > 0
    return hashlib.sha256(os.pread(file.fileno(), min(size, there), offset) if inside else b"").hexdigest()


def members(file: BinaryIO) -> tuple[pd.DataFrame, str]:
    """(images of a tar, why it could not be read to its end): walked member by member, as a WebDataset reader would."""
    places: list[tuple[str, int]] = []
    labels: dict[str, int] = {}
    anew: dict[str, Anew] = {}
    last: tarfile.TarInfo | None = None  # the image before, which a .json tells of
    problem = ""
    file.seek(0)
    try:
        for member in Headers(file):
            name = member.name.encode(errors="surrogateescape").decode(errors="replace")  # a table holds UTF-8 alone
            key, _, extension = name.partition(".")
            if extension == "cls":
                text = beginning(file, member, MOST_DIGITS + 2).strip()
                labels[key] = int(text) if text.isdigit() and len(text) <= MOST_DIGITS else -1
            elif extension == "json":
                text = beginning(file, member, MOST_JSON)
                if b'"stored"' in text:  # said only of an image that `shard.store` has made anew
                    told = stored_anew(text, file, last)
                    anew |= {key: told} if told else {}
            elif member.isreg():
                places.append((key, member.offset_data))
                last = member
    except tarfile.TarError as error:
        problem = str(error)
    return members_table(places, labels, anew), problem


def beginning(file: BinaryIO, member: tarfile.TarInfo, most: int) -> bytes:
    """A payload, or its first `most` bytes: a header may claim what the file has not got."""
    left = os.fstat(file.fileno()).st_size - member.offset_data
    return os.pread(file.fileno(), max(0, min(member.size, left, most)), member.offset_data)


def stored_anew(text: bytes, file: BinaryIO, image: tarfile.TarInfo | None) -> Anew | None:
    """What a .json tells of its image, and whether the image is like that; None where it tells of none stored anew."""
    try:
        about = json.loads(text)
        told, original = about["stored"], str(about["sha256"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not isinstance(told, dict) or image is None:
        return None
    data = beginning(file, image, MOST_IMAGE)
    size = jpeg_size(data)
    as_told = told.get("sha256") == hashlib.sha256(data).hexdigest() and size == (told.get("width"), told.get("height"))
    return Anew(original, *(size if as_told else (-1, -1)))


def jpeg_size(data: bytes) -> tuple[int, int]:
    """(width, height) in a JPEG's frame header (ITU-T T.81, B.2.2); -1, -1 where there is none."""
    place = 2 if data[:3] == b"\xff\xd8\xff" else len(data)
    while place + 9 <= len(data) and data[place] == 0xFF:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = (int.from_bytes(data[place + at : place + at + 2], "big") for at in (5, 7))
            return width, height
        place += 2 + length
    return -1, -1


def members_table(places: list[tuple[str, int]], labels: dict[str, int], anew: dict[str, Anew]) -> pd.DataFrame:
    """key, offset, label_in_shard, stored_anew, original_sha256_in_shard, width_in_shard, height_in_shard of a tar's images."""
    seen = [anew.get(key, Anew("", -1, -1)) for key, _ in places]
    return pd.DataFrame(
        {
            "key": pd.Series([key for key, _ in places], dtype="str"),
            "offset": pd.Series([offset for _, offset in places], dtype="int64"),
            "label_in_shard": pd.Series([labels.get(key, -1) for key, _ in places], dtype="int64"),
            "stored_anew": pd.Series([int(key in anew) for key, _ in places], dtype="int64"),
            "original_sha256_in_shard": pd.Series([one.original_sha256 for one in seen], dtype="str"),
            "width_in_shard": pd.Series([one.width for one in seen], dtype="int64"),
            "height_in_shard": pd.Series([one.height for one in seen], dtype="int64"),
        }
    )
