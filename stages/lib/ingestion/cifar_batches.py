"""Opens a CIFAR-10 or CIFAR-100 python batch: every image as a PNG of its exact pixels, the class names as JSON.

A batch is a pickle: {"data": u8[n, 3072] (red, green, blue planes, row by row), "labels" or "fine_labels": list of n,
"filenames": list of n}; batches.meta and meta are {"label_names": ...} and {"fine_label_names": ...}.
"""

import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from stages.lib.core.outcome import Refusal
from stages.lib.ingestion import plain_pickle
from stages.lib.ingestion.inner_names import plain

SIDE = 32
BATCHES = {*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "train", "test"}
METAS = {"batches.meta", "meta"}
NAMES = "batches.meta.json"
"""The path under which the class names come out: {"label_names": [...]}, index = label."""
MOST_CLASSES = {"labels": 10, "fine_labels": 100}


def opens(path: str) -> bool:
    """Whether a file of this name is a batch, or the names of its classes."""
    return path.rpartition("/")[2] in BATCHES | METAS


def inner(name: str, file: BinaryIO) -> Iterator[tuple[str, bytes]]:
    """(`<label>/<index:05d>-<filename stem>.png`, PNG) in the batch's order, or (NAMES, JSON). Raises Refusal.

    A pickle has to be held whole: 31 MB for CIFAR-10, 155 MB and as much again for CIFAR-100's `train`.
    """
    content = plain_pickle.load(file, name)
    names = content.get("fine_label_names", content.get("label_names"))
    if names is not None:
        yield NAMES, json.dumps({"label_names": _texts(name, names, "label_names")}, ensure_ascii=False).encode()
        return
    pixels, labels, stems = _checked(name, content)
    for index, (planes, label, stem) in enumerate(zip(pixels, labels, stems, strict=True)):
        yield f"{label}/{index:05d}-{stem}.png", png_of(planes)


def png_of(planes: np.ndarray) -> bytes:
    """u8[3, h, w], h (3 w + 1) < 65536 -> PNG, not compressed: its bytes, and so its sha256, hang on no zlib version."""
    height, width = planes.shape[1:]
    lines = np.zeros((height, 1 + 3 * width), np.uint8)  # a line begins with its filter: 0, none
    lines[:, 1:] = planes.transpose(1, 2, 0).reshape(height, 3 * width)
    raw = lines.tobytes()
    stored = b"\x78\x01\x01" + struct.pack("<HH", len(raw), len(raw) ^ 0xFFFF) + raw
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB
    chunks = ((b"IHDR", header), (b"IDAT", stored + struct.pack(">I", zlib.adler32(raw))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def _checked(name: str, content: dict[str, Any]) -> tuple[np.ndarray, list[int], list[str]]:
    """(u8[n, 3, 32, 32], labels, names without ending) of a batch. Raises Refusal where it is none."""
    kind = "fine_labels" if "fine_labels" in content else "labels"
    data, labels = content.get("data"), content.get(kind)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (3 * SIDE * SIDE,):
        found = f"{data.dtype}{list(data.shape)}" if isinstance(data, np.ndarray) else "no array"
        raise _no_batch(name, f"`data` is {found}; it should be uint8[n, {3 * SIDE * SIDE}]")
    if not isinstance(labels, list) or len(labels) != len(data):
        raise _no_batch(name, f"`labels` or `fine_labels` is no list of {len(data)} numbers, one an image")
    most = MOST_CLASSES[kind]
    wrong = [label for label in labels if type(label) is not int or not 0 <= label < most]
    if wrong:
        one = wrong[0]  # of a container the words could be endless: a few lists in each other twice, forty times over
        shown = str(one)[:40] if isinstance(one, str | int | float | bytes) else type(one).__name__
        raise _no_batch(name, f"`{kind}` holds {shown!r}; labels are whole numbers from 0 to {most - 1}")
    stems = _texts(name, content.get("filenames", ["image"] * len(data)), "filenames")
    if len(stems) != len(data):
        raise _no_batch(name, f"`filenames` has {len(stems)} entries for {len(data)} images")
    return data.reshape(-1, 3, SIDE, SIDE), labels, [plain(stem).rsplit(".", 1)[0] for stem in stems]


def _texts(name: str, found: Any, key: str) -> list[str]:
    """A list of texts of either Python. Raises Refusal."""
    if not isinstance(found, list) or not all(isinstance(one, str | bytes) for one in found):
        raise _no_batch(name, f"`{key}` is no list of texts")
    return [one.decode("latin-1") if isinstance(one, bytes) else one for one in found]


def _no_batch(name: str, why: str) -> Refusal:
    return Refusal(f"{name} is no CIFAR batch as published: {why}. Get the python version of the archive again.")
