"""Pickles read without running them: the published kind comes out right, everything else ends in a Refusal."""

import builtins
import io
import os
import pickle
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.lib.core.outcome import Refusal
from stages.lib.ingestion import plain_pickle
from tests.ingestion.official import python2_pickle

PIXELS = np.arange(24, dtype=np.uint8).reshape(2, 12)
CONTENT = {
    "data": PIXELS,
    "labels": [3, 300, -7, 70_000],
    "filenames": ["a.png", "caf\xe9.png"],
    "batch_label": "x" * 300,
}


def load(data: bytes) -> dict[str, Any]:
    return plain_pickle.load(io.BytesIO(data), "data_batch_1")


def same(found: dict[str, Any]) -> None:
    assert {key: value for key, value in found.items() if key != "data"} == {
        key: value for key, value in CONTENT.items() if key != "data"
    }
    assert found["data"].dtype == np.uint8
    np.testing.assert_array_equal(found["data"], PIXELS)


def test_load__python_2_as_published() -> None:
    data = python2_pickle(CONTENT)
    same(pickle.loads(data, encoding="latin1"))  # the test's pickle is one that Python itself reads
    assert data.startswith(b"\x80\x02}") and b"cnumpy.core.multiarray\n_reconstruct\n" in data
    same(load(data))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_load__python_3(protocol: int) -> None:
    same(load(pickle.dumps(CONTENT, protocol)))
    same(load(pickle.dumps({key.encode(): value for key, value in CONTENT.items()}, protocol)))


def test_load__other_arrays() -> None:
    arrays = {
        "f": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "i": np.arange(3, dtype=">i4"),
    }
    for protocol in (2, 5):
        for key, found in load(pickle.dumps(arrays, protocol)).items():
            assert found.dtype == arrays[key].dtype
            np.testing.assert_array_equal(found, arrays[key])


class Runs:
    """Runs a program when an ordinary unpickler reads it."""

    def __init__(self, called: Any, *arguments: Any) -> None:
        self.reduced = (called, arguments)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.reduced


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Runs(os.system, "touch pwned"), r"posix\.system"),
        (Runs(builtins.eval, "1"), r"builtins\.eval|__builtin__\.eval"),
        (Runs(getattr, "x", "y"), "getattr"),
        (Runs(bytearray, 10**9), "bytearray"),
        (np.ma.masked_array([1]), r"numpy\.ma"),
        (np.float64(1), r"multiarray\.scalar"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_load__refuses_globals_by_name(
    value: Any, name: str, protocol: int, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = pickle.dumps({"data": PIXELS, "labels": [value]}, protocol)
    with pytest.raises(Refusal, match=rf"data_batch_1 is a pickle that asks for .*({name})"):
        load(data)
    assert not list(tmp_path.iterdir())


def test_load__the_ordinary_unpickler_would_have_run_it(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control of the test above."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Runs(os.system, "touch pwned")))
    assert (tmp_path / "pwned").exists()


NESTED = b"(" * 40_000 + b"t" * 40_000
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
DTYPE = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
TERABYTE = b"\x8a\x06" + (1 << 40).to_bytes(6, "little") + b"\x85"
TEXT = b"X" + struct.pack("<I", 1 << 24) + b"x" * (1 << 24)
BOMBS = {
    "a text of 2 GB": (b"\x80\x02T\xff\xff\xff\x7fabc.", "or claims to be"),
    "bytes of 4 exabytes": (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"abc.", "or claims to be"),
    "an array of 1 TB": (
        b"\x80\x02}U\x01d" + ARRAY + b"(K\x01" + TERABYTE + DTYPE + b"\x89U\x01xtbs.",
        "1 bytes instead of 1,099,511,",
    ),
    "a deeply nested key": (b"\x80\x02}" + NESTED + b"Ns.", "a tuple is a key"),
    "a deeply nested value": (b"\x80\x02" + NESTED + b".", "it holds no dictionary"),
    "endless empty lists": (b"\x80\x02(" + b"]" * 120_000 + b"l.", "more than 100,000 steps"),
    "one text made into bytes again and again": (
        b"\x80\x02}c_codecs\nencode\nq\x00" + TEXT + b"U\x06latin1\x86q\x01(" + b"h\x00h\x01R" * 40 + b"u.",
        "bytes of arrays",
    ),
    "no mark": (b"\x80\x02u.", "IndexError"),
    "an empty stack": (b"\x80\x02.", "IndexError"),
    "a list": (b"\x80\x02].", "it holds no dictionary"),
    "text protocol": (pickle.dumps({"labels": [1]}, 0), "the pickle opcode DICT"),
    "cut off": (python2_pickle(CONTENT)[:200], "exhausted before seeing STOP"),
    "nothing": (b"", "exhausted before seeing STOP"),
    "something else": (b"\x1f\x8b\x08", "opcode"),
}


@pytest.mark.parametrize("what", BOMBS)
def test_load__refuses_bombs_and_damage(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_pickle, "MOST_STEPS", 100_000)  # the real bound takes seconds to reach
    data, words = BOMBS[what]
    with pytest.raises(Refusal, match=f"data_batch_1.*{words}"):
        load(data)


def test_load__a_memo_place_costs_nothing_by_its_number() -> None:
    """Python's own unpickler would make a table of 4 billion places, 64 GB, for this."""
    assert load(b"\x80\x02}r\xff\xff\xff\xff" + b"U\x01aK\x01s.") == {"a": 1}


WHOLE = python2_pickle({**CONTENT, "batch_label": "x"})


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=6),
    st.integers(0, len(WHOLE)),
)
def test_load__any_damage_is_refused_or_read(changes: list[tuple[int, int]], end: int) -> None:
    data = bytearray(WHOLE)
    for place, value in changes:
        data[place] = value
    for candidate in (bytes(data), bytes(data[:end])):
        try:
            assert isinstance(load(candidate), dict)
        except Refusal:
            pass


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([b"(", b"}", b"]", b")", b"K\x01", b"U\x01a", b"q\x00", b"h\x00", b"u", b"e", b"t", b"s",
                                  b"\x85", b"\x86", b"R", b"b", b"N", ARRAY, DTYPE, b"cnumpy\ndtype\n"]), max_size=40))  # fmt: skip
def test_load__any_program_is_refused_or_read(steps: list[bytes]) -> None:
    try:
        assert isinstance(load(b"\x80\x02" + b"".join(steps) + b"."), dict)
    except Refusal:
        pass
