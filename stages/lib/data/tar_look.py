"""One look at a whole tar of a set: is every byte as the index says, and which images does it really hold?"""

import hashlib
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Look:
    """What one tar turned out to hold."""

    bytes: int
    sha256: str
    problem: str
    found: pd.DataFrame  # key, offset, label of every image in it
    match: np.ndarray  # bool, one an index row: the bytes at its place have its sha256


def look(path: Path, rows: pd.DataFrame) -> Look:
    """Read one tar whole: its digest, the digest of every payload the index places in it, and the members it really has."""
    try:
        file = path.open("rb")
    except OSError as error:
        return Look(-1, "", str(error.strerror), members_table([], {}), np.zeros(len(rows), dtype=bool))
    with file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = os.fstat(file.fileno()).st_size
        places = zip(rows["offset"], rows["size"], rows["sha256"], strict=True)
        match = [payload_sha256(file, int(offset), int(length)) == expected for offset, length, expected in places]
        found, problem = members(file)
    return Look(size, digest, problem, found, np.array(match, dtype=bool))


def payload_sha256(file: BinaryIO, offset: int, size: int) -> str:
    """Of `size` bytes at `offset`; of fewer where the file ends."""
    inside = offset >= 0 and size >= 0
    return hashlib.sha256(os.pread(file.fileno(), size, offset) if inside else b"").hexdigest()


def members(file: BinaryIO) -> tuple[pd.DataFrame, str]:
    """(images of a tar, why it could not be read to its end): walked member by member, as a WebDataset reader would."""
    places: list[tuple[str, int]] = []
    labels: dict[str, int] = {}
    problem = ""
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while member := tar.next():
                tar.members.clear()  # type: ignore[attr-defined]  # or tarfile remembers a million of them
                key, _, extension = member.name.partition(".")
                if extension == "cls":
                    text = os.pread(file.fileno(), member.size, member.offset_data)
                    labels[key] = int(text) if text.strip().isdigit() else -1
                elif member.isreg() and extension != "json":
                    places.append((key, member.offset_data))
    except tarfile.TarError as error:
        problem = str(error)
    return members_table(places, labels), problem


def members_table(places: list[tuple[str, int]], labels: dict[str, int]) -> pd.DataFrame:
    """key, offset, label_in_shard of a tar's images."""
    return pd.DataFrame(
        {
            "key": pd.Series([key for key, _ in places], dtype="str"),
            "offset": pd.Series([offset for _, offset in places], dtype="int64"),
            "label_in_shard": pd.Series([labels.get(key, -1) for key, _ in places], dtype="int64"),
        }
    )
