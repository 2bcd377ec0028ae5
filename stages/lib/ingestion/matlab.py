"""Reads the variables of MATLAB 5 files (versions 5 to 7, also compressed) that official sets come with.

scipy.io.loadmat ends the whole process on some damaged files (1.17.1: a segmentation fault after four changed bytes), and
these files are downloaded; so they are taken apart here, every length checked before it is believed. Tests compare with
scipy. Format: MathWorks, "MAT-File Level 5". Numbers, texts, cells and structs are read, and nothing else.
"""

import itertools
import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from stages.lib.core.outcome import Refusal

MOST_BYTES = 1 << 24  # of a file, and of what it unpacks to; annotations of 8,144 cars have about 3 MB
DEEPEST = 8  # structs and cells inside each other
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""Kind of a data element -> NumPy's code; a matrix of doubles may be stored in any of them."""
TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
"""Kind of a data element -> encoding of a text stored in it."""
MATRIX, COMPRESSED = 14, 15
CELL, STRUCT, TEXT = 1, 2, 4
NUMERIC = range(6, 16)  # doubles, singles and integers
COMPLEX = 0x0800


class Matrix(NamedTuple):
    """A variable, or a part of one; elements in MATLAB's order, first index fastest."""

    name: str
    kind: int
    shape: tuple[int, ...]
    content: Any
    """Numeric: an array [n]; TEXT: a str; CELL: a list of Matrix; STRUCT: a list of {field: Matrix}."""


NOTHING = Matrix("", NUMERIC[0], (0, 0), np.zeros(0))
"""What a part without a single byte stands for."""


def numbers(data: bytes, member: str, name: str) -> np.ndarray:
    """i64[n]: a vector of whole numbers. member: the file's path, said in messages. Raises Refusal."""
    found = _variable(data, member, name)
    values = found.content
    vector = found.kind in NUMERIC and len(values) in (0, max(found.shape))  # nothing is 0 x 0 there
    if not vector or (values != np.floor(values)).any():
        raise _unexpected(member, f"`{name}` is no vector of whole numbers")
    whole: np.ndarray = values.astype(np.int64)
    return whole


def texts(data: bytes, member: str, name: str) -> list[str]:
    """A cell array of texts. Raises Refusal."""
    found = _variable(data, member, name)
    if found.kind != CELL or any(one.kind != TEXT for one in found.content):
        raise _unexpected(member, f"`{name}` is no cell array of texts")
    return [one.content for one in found.content]


def records(data: bytes, member: str, name: str, fields: Sequence[str]) -> list[tuple[Any, ...]]:
    """The named fields of every element of a struct array: str, int or float, None for anything else. Raises Refusal."""
    found = _variable(data, member, name)
    if found.kind != STRUCT or any(field not in row for row in found.content for field in fields):
        raise _unexpected(member, f"`{name}` is no struct array with {', '.join(fields)}")
    return [tuple(_plain(row[field]) for field in fields) for row in found.content]


def _plain(value: Matrix) -> str | int | float | None:
    """A single number or a text; a whole float as int, since MATLAB knows only doubles."""
    if value.kind == TEXT:
        return str(value.content)
    if value.kind not in NUMERIC or len(value.content) != 1:
        return None
    single: int | float = value.content[0].item()
    return int(single) if isinstance(single, float) and single.is_integer() else single


def _variable(data: bytes, member: str, name: str) -> Matrix:
    """Raises Refusal where the file holds no such variable or cannot be read."""
    try:
        if len(data) > MOST_BYTES:
            raise ValueError(f"it has {len(data):,} bytes, and no official one has more than {MOST_BYTES:,}")
        order = {b"IM": "<", b"MI": ">"}.get(data[126:128], "")
        if not order or data[124:126] not in (b"\x00\x01", b"\x01\x00"):
            raise ValueError("it has no header of MATLAB 5 to 7 (7.3 is another format: save it with -v7)")
        for body in _matrices(memoryview(data)[128:], order):
            if _head(body, order)[2] == name:
                return _matrix(body, order, 0)
    except (ValueError, struct.error, zlib.error, UnicodeDecodeError) as error:
        raise _unexpected(member, str(error)) from None
    raise _unexpected(member, f"there is no variable `{name}` in it")


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """(kind, bytes) of the elements that lie one behind the other, padded to 8 bytes. Raises ValueError for one cut off."""
    at = 0
    while at + 8 <= len(data):
        kind, size = struct.unpack_from(f"{order}II", data, at)
        start, padding = at + 8, -size % 8 if kind != COMPRESSED else 0
        if kind >> 16:  # a short element: kind and size share 4 bytes, the data has the other 4
            kind, size, start, padding = kind & 0xFFFF, kind >> 16, at + 4, 4 - (kind >> 16)
        if start + size > len(data) or padding < 0:
            raise ValueError(f"an element claims {size:,} bytes, and fewer are left")
        yield kind, data[start : start + size]
        at = start + size + padding


def _matrices(data: memoryview, order: str) -> Iterator[memoryview]:
    """The bodies of all variables, unpacked."""
    room = MOST_BYTES
    for kind, body in _elements(data, order):
        if kind == COMPRESSED:
            unpacked = zlib.decompressobj().decompress(body, room)
            room -= len(unpacked)
            if not room:
                raise ValueError(f"it unpacks to more than {MOST_BYTES:,} bytes")
            kind, body = next(_elements(memoryview(unpacked), order), (0, body))
        if kind == MATRIX:
            yield body


def _head(body: memoryview, order: str) -> tuple[int, tuple[int, ...], str, Iterator[tuple[int, memoryview]]]:
    """(kind with flags, shape, name, the elements that follow) of a matrix."""
    rest = _elements(body, order)
    first = [data for _, data in itertools.islice(rest, 3)]
    if len(first) < 3 or len(first[0]) != 8 or len(first[1]) % 4 or not first[1]:
        raise ValueError("a variable has no proper head")
    shape = struct.unpack(f"{order}{len(first[1]) // 4}i", first[1])
    if min(shape) < 0 or len(shape) > 8:
        raise ValueError(f"a variable has the shape {shape}")
    return struct.unpack_from(f"{order}I", first[0])[0], shape, bytes(first[2]).decode("latin-1"), rest


def _matrix(body: memoryview, order: str, depth: int) -> Matrix:
    if not body:
        return NOTHING
    flags, shape, name, rest = _head(body, order)
    kind, count = flags & 0xFF, math.prod(shape)
    if depth > DEEPEST:
        raise ValueError(f"structs or cells lie more than {DEEPEST} deep in each other")
    if kind in NUMERIC and not flags & COMPLEX:
        content: Any = _numbers(next(rest, (9, memoryview(b""))), order, count)
    elif kind == TEXT and min(shape, default=1) <= 1:
        content = _text(next(rest, (16, memoryview(b""))), order, count)
    elif kind == CELL:
        content = _parts(rest, order, count, depth)
    elif kind == STRUCT:
        length, names = next(rest, (5, memoryview(b"")))[1], bytes(next(rest, (1, memoryview(b"")))[1])
        fields = _fields(length, names, order)
        parts = _parts(rest, order, count * len(fields), depth)
        content = [
            dict(zip(fields, parts[at : at + len(fields)], strict=True))
            for at in range(0, len(parts), len(fields) or 1)
        ]
    else:
        raise ValueError(f"a variable has class {kind} and shape {shape}, as none in an official file")
    return Matrix(name, kind, shape, content)


def _numbers(element: tuple[int, memoryview], order: str, count: int) -> np.ndarray:
    kind, data = element
    if kind not in NUMBERS:
        raise ValueError(f"numbers are stored as kind {kind}")
    dtype = np.dtype(order + NUMBERS[kind])
    if len(data) != count * dtype.itemsize:
        raise ValueError(f"a variable of {count:,} numbers has {len(data):,} bytes of {dtype}")
    return np.frombuffer(data, dtype)


def _text(element: tuple[int, memoryview], order: str, count: int) -> str:
    kind, data = element
    if kind not in TEXTS:
        raise ValueError(f"a text is stored as kind {kind}")
    wide = TEXTS[kind] in ("utf-16", "utf-32")
    text = bytes(data).decode(TEXTS[kind] + ({"<": "-le", ">": "-be"}[order] if wide else ""))
    if kind != 16 and len(text) > count:  # in UTF-8 the shape counts what it likes
        raise ValueError(f"a text of {count} characters has {len(text)}")
    return text


def _fields(length: memoryview, names: bytes, order: str) -> list[str]:
    """Names of a struct's fields: each has the same length, filled with zeros."""
    size = struct.unpack(f"{order}i", length)[0]
    if size < 1 or len(names) % size:
        raise ValueError("the names of a struct's fields are damaged")
    return [names[at : at + size].split(b"\0")[0].decode("latin-1") for at in range(0, len(names), size)]


def _parts(rest: Iterator[tuple[int, memoryview]], order: str, count: int, depth: int) -> list[Matrix]:
    """Exactly `count` matrices. An absurd count costs nothing: the elements end first."""
    parts = [_matrix(part, order, depth + 1) for kind, part in rest if kind == MATRIX]
    if len(parts) != count:
        raise ValueError(f"a cell or struct of {count:,} parts has {len(parts):,}")
    return parts


def _unexpected(member: str, why: str) -> Refusal:
    return Refusal(f"{member} is not the MATLAB file of the official set: {why}. Get it again.")
