"""Our reader of MATLAB files beside scipy's, on files scipy writes and on real ones; damage and bombs end in a Refusal."""

import io
import struct
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import loadmat, savemat

from stages.lib.core.outcome import Refusal
from stages.lib.ingestion import matlab
from tests.ingestion.official import struct_array


def saved(compressed: bool, **variables: Any) -> bytes:
    buffer = io.BytesIO()
    savemat(buffer, variables, do_compression=compressed, oned_as="row")
    return buffer.getvalue()


def element(kind: int, data: bytes, order: str = "<") -> bytes:
    """A data element with its padding."""
    return struct.pack(f"{order}II", kind, len(data)) + data + bytes(-len(data) % 8)


NAMES = ("tench, Tinca tinca", "caf\xe9 \u4e16", "", "x", "a much longer text than fits into four bytes")
ROWS = [
    {"ID": place * 1000, "half": place + 0.5, "words": words, "many": [1, 2, 3]} for place, words in enumerate(NAMES)
]


def cells(names: tuple[str, ...], shape: tuple[int, int]) -> np.ndarray:
    found = np.empty(len(names), object)
    found[:] = names
    return found.reshape(shape)


@pytest.mark.parametrize("compressed", [True, False])
def test_records_and_texts__as_written(compressed: bool) -> None:
    for shape in ((1, 5), (5, 1)):
        data = saved(compressed, other=[1.5], rows=struct_array(ROWS, shape), names=cells(NAMES, shape))
        assert matlab.records(data, "m", "rows", ("words", "ID", "half", "many")) == [
            (row["words"], row["ID"], row["half"], None) for row in ROWS
        ]
        assert matlab.texts(data, "m", "names") == list(NAMES)


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
def test_numbers__every_kind(compressed: bool, dtype: str) -> None:
    for values in ([1], [3, 1, 2], list(range(100)), []):
        data = saved(compressed, before="text", numbers=np.array(values, dtype))
        found = matlab.numbers(data, "m", "numbers")
        assert found.dtype == np.int64 and found.tolist() == values


def test_numbers__the_other_byte_order() -> None:
    """As a machine with its bytes the other way round writes them; scipy is the witness that the file is right."""

    def short(kind: int, data: bytes) -> bytes:
        return struct.pack(">I", len(data) << 16 | kind) + data.ljust(4, b"\0")

    matrix = element(6, struct.pack(">II", 6, 0), ">") + element(5, struct.pack(">ii", 1, 3), ">") + short(1, b"abc")
    matrix += element(4, struct.pack(">3H", 1, 300, 7), ">")
    data = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x01\x00MI" + element(14, matrix, ">")
    assert loadmat(io.BytesIO(data))["abc"].tolist() == [[1, 300, 7]]
    assert matlab.numbers(data, "m", "abc").tolist() == [1, 300, 7]


def test_records__real_devkit_as_scipy_reads_it(shared: Path) -> None:
    with tarfile.open(shared / "data/stanford-cars-10.tar") as tar:
        annotations = tar.extractfile("devkit/cars_train_annos.mat").read()  # type: ignore[union-attr]
        meta = tar.extractfile("devkit/cars_meta.mat").read()  # type: ignore[union-attr]
    theirs = loadmat(io.BytesIO(annotations), squeeze_me=True)["annotations"]
    fields = ("fname", "class", "bbox_x1", "bbox_y2")
    assert matlab.records(annotations, "m", "annotations", fields) == [
        tuple(row[field] for field in fields) for row in theirs
    ]
    assert matlab.texts(meta, "m", "class_names") == loadmat(io.BytesIO(meta), squeeze_me=True)["class_names"].tolist()
    assert len(theirs) == 406


HEADER = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
ZEROS = zlib.compress(bytes(1 << 25))
FIVE = saved(False, a=[1, 2, 3, 4, 5])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no header of MATLAB 5 to 7"),
        (b"<html>404</html>" * 100, "no header of MATLAB 5 to 7"),
        (HEADER.replace(b"\x00\x01IM", b"\x00\x02IM"), "7.3 is another format"),
        (HEADER, "no variable `a`"),
        (HEADER + struct.pack("<II", 15, len(ZEROS)) + ZEROS, "unpacks to more than"),
        (HEADER + struct.pack("<II", 14, 1 << 30), "claims 1,073,741,824 bytes, and fewer are left"),
        (HEADER + struct.pack("<II", 15, 8) + b"notzlib!", "incorrect header check"),
        (bytes(matlab.MOST_BYTES + 1), "no official one has more than"),
        (FIVE[:-24], "fewer are left"),
        (FIVE.replace(struct.pack("<ii", 1, 5), struct.pack("<ii", 1, 1 << 30)), "of 1,073,741,824 numbers has"),
        (FIVE.replace(struct.pack("<ii", 1, 5), struct.pack("<ii", 1, -5)), "has the shape"),
        (saved(False, a=[1.5, 2]), "no vector of whole numbers"),
        (saved(False, a=[float("nan")]), "no vector of whole numbers"),
        (saved(False, a=[[1, 2], [3, 4]]), "no vector of whole numbers"),
        (saved(False, a="text"), "no vector of whole numbers"),
        (saved(False, a=[1j]), "class 6 and shape"),
        (saved(False, b=[1]), "no variable `a`"),
    ],
)
def test_numbers__refuses(data: bytes, words: str) -> None:
    with pytest.raises(Refusal, match=f"m.mat is not the MATLAB file of the official set: .*{words}"):
        matlab.numbers(data, "m.mat", "a")


def test_texts_and_records__refuse() -> None:
    data = saved(False, a=[1], b=cells(("x", "y"), (1, 2)), c=struct_array(ROWS, (1, 5)))
    for name in ("a", "c"):
        with pytest.raises(Refusal, match="no cell array of texts"):
            matlab.texts(data, "m", name)
    for name, field in (("a", "ID"), ("b", "ID"), ("c", "wnid")):
        with pytest.raises(Refusal, match=f"no struct array with {field}"):
            matlab.records(data, "m", name, (field,))


def test_texts__refuses_cells_deep_in_each_other() -> None:
    """Python's recursion limit would be met far below the 16 MB a file may have."""
    part = b""
    for _ in range(2000):
        head = element(6, struct.pack("<II", 1, 0)) + element(5, struct.pack("<ii", 1, 1)) + element(1, b"a")
        part = head + element(14, part)
    with pytest.raises(Refusal, match="more than 8 deep in each other"):
        matlab.texts(HEADER + element(14, part), "m", "a")


VARIABLES = {"names": cells(NAMES, (1, 5)), "rows": struct_array(ROWS, (5, 1)), "numbers": [1, 2, 3]}
WHOLE = {compressed: saved(compressed, **VARIABLES) for compressed in (True, False)}


@settings(max_examples=150, deadline=None)
@given(st.booleans(), st.lists(st.tuples(st.integers(116, 3000), st.integers(0, 255)), min_size=1, max_size=5))
def test_read__any_damage_is_refused_or_read(compressed: bool, changes: list[tuple[int, int]]) -> None:
    """scipy 1.17.1 ends the process on some of these."""
    data = bytearray(WHOLE[compressed])
    for place, value in changes:
        data[116 + place % (len(data) - 116)] = value
    for read in (
        lambda: matlab.numbers(bytes(data), "m", "numbers"),
        lambda: matlab.texts(bytes(data), "m", "names"),
        lambda: matlab.records(bytes(data), "m", "rows", ("ID", "words")),
    ):
        try:
            read()
        except Refusal:
            pass
