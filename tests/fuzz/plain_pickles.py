"""Pickles as CIFAR's batches are: whole batches damaged, and programs of opcodes put together at random."""

import pickle
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np

from stages.lib.ingestion import cifar_batches
from tests.fuzz.target import Target
from tests.ingestion.official import python2_pickle

ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
DTYPE = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
OPCODES = [bytes([code]) for code in range(256)]
PIECES = [
    b"(", b"}", b"]", b")", b"K\x01", b"U\x01a", b"q\x00", b"h\x00", b"u", b"e", b"t", b"s", b"\x85", b"\x86", b"\x87", b"R",
    b"b", b"N", b"0", b"2", b"1", b"a", ARRAY, DTYPE, b"cnumpy\ndtype\n", b"cos\nsystem\n", b"cbuiltins\neval\n", b"\x93",
    b"X" + struct.pack("<I", 3) + b"abc", b"X" + struct.pack("<I", 1 << 31), b"\x8e" + struct.pack("<Q", 1 << 62),
    b"T" + struct.pack("<i", -1), b"\x8a\xff" + b"\x7f" * 255, b"\x8b" + struct.pack("<i", 1 << 30), b"I" + b"9" * 900 + b"\n",
    b"r\xff\xff\xff\xff", b"j\xff\xff\xff\xff", b"\x95" + struct.pack("<Q", 1 << 60), b"Pid\n", b"Q", b"\x82\x01", b"\x98", b"\x97",
    b"\x81", b"\x92", b"c_codecs\nencode\n", b"U\x06latin1", b"U\x05utf16", b"U\x04O8", b"G" + struct.pack(">d", float("nan")),
    b"(" * 3000, b"]" * 3000, b"\x85" * 3000, b"2" * 3000, b".",
]  # fmt: skip


def program(dice: random.Random, _data: bytes) -> bytes:
    """Nothing but opcodes, with a good beginning and end."""
    body = b"".join(dice.choice(PIECES) for _ in range(dice.randint(1, 40)))
    return bytes([0x80, dice.randint(0, 6)]) + dice.choice((b"}", b"")) + body + dice.choice((b"", b"s", b"u")) + b"."


def inside(dice: random.Random, data: bytes) -> bytes:
    """An opcode or a piece of a program in the middle of a good file."""
    at = dice.randint(0, len(data))
    return data[:at] + dice.choice([*PIECES, *OPCODES]) + data[at:]


def contents() -> list[dict[str, Any]]:
    """Two batches and the names of classes."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3072), np.uint8)
    batch = {"data": pixels, "labels": [3, 9], "filenames": ["a.png", "b.png"], "batch_label": "x"}
    return [batch, {"data": pixels, "fine_labels": [3, 99]}, {"label_names": ["ant", "bee"]}]


def target(_folder: Path) -> Target:
    """Every image and name that a batch gives."""
    good = [pickle.dumps(one, protocol) for one in contents() for protocol in (2, 3, 4, 5)]
    good += [python2_pickle(one) for one in contents()]

    def read(path: Path) -> None:
        with path.open("rb") as file:
            for name, data in cifar_batches.inner("data_batch_1", file):
                assert isinstance(name, str) and data

    return Target(read, good, PIECES, [inside, inside, program])
