"""Reads a pickle of plain containers and number arrays without running any of it.

Python's own unpickler calls whatever a file names. Here pickletools only takes the file apart, no name is ever looked up,
and NumPy's constructors are stand-ins that collect what an array is made of. Strings of Python 2 are read as latin-1.
Size, number of steps and nesting are bounded by what is kept, so that a file made to exhaust memory is refused.
"""

import math
import pickletools
import re
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from stages.lib.core.outcome import Refusal

MOST_BYTES = 1 << 28
"""Of the file, and again of the arrays made from it. The largest official file, CIFAR-100's `train`, has 155 MB."""
MOST_STEPS = 1_000_000  # CIFAR-100's `train` has about 200,000; a step makes at most one small object

VALUES = {
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "SHORT_BINSTRING", "BINSTRING", "SHORT_BINUNICODE",
    "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip
FRESH = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
WITHOUT_EFFECT = {"PROTO", "FRAME", "STOP"}
ARRAY, DTYPE, BUFFER, ENCODE, CLASS = "array", "dtype", "buffer", "encode", "class"
ALLOWED = {
    "numpy.core.multiarray._reconstruct": ARRAY,
    "numpy._core.multiarray._reconstruct": ARRAY,
    "numpy.core.numeric._frombuffer": BUFFER,
    "numpy._core.numeric._frombuffer": BUFFER,
    "numpy.ndarray": CLASS,
    "numpy.dtype": DTYPE,
    "_codecs.encode": ENCODE,  # how Python 3 writes bytes in protocol 2
}
"""Global -> what its stand-in makes."""


def load(file: BinaryIO, name: str) -> dict[str, Any]:
    """The dictionary a pickle (protocol 2 to 5) holds; its arrays are read-only ndarrays, bytes keys become str.

    name: said in messages. Raises Refusal for any global but NumPy's array makers, for what is damaged and what is too large.
    """
    machine = _Machine(name)
    try:
        for step, (opcode, argument, _) in enumerate(pickletools.genops(_Bounded(file, name))):  # type: ignore[arg-type]
            if step >= MOST_STEPS:
                raise _too_large(name, f"more than {MOST_STEPS:,} steps")
            machine.step(opcode.name, argument)
        found = machine.stack.pop()
        if not isinstance(found, dict):
            raise ValueError("it holds no dictionary")
        return {_text(key): value.values if isinstance(value, _Array) else value for key, value in found.items()}
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        raise Refusal(
            f"{name} is no pickle of a dictionary that can be read ({type(error).__name__}: {error}). "
            "Get the official file again."
        ) from None


class _Global(NamedTuple):
    """A name the file asks for; never looked up."""

    makes: str


class _Dtype:
    """Stand-in for numpy.dtype: a kind and size such as `u1`, then a byte order."""

    def __init__(self, code: str) -> None:
        if not re.fullmatch(r"[|<>=]?[biuf]\d{1,2}", code):
            raise ValueError(f"arrays of {code!r} are not read, only of numbers")
        self.dtype = np.dtype(code)

    def build(self, state: Any) -> None:
        if any(part is not None for part in state[2:5]):
            raise ValueError("structured arrays are not read")
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stand-in for numpy.ndarray while it is put together."""

    values: np.ndarray | None = None


class _Bounded:
    """What pickletools reads from: at most MOST_BYTES, and no buffer is made for a length that cannot be true."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.file, self.name, self.left = file, name, MOST_BYTES

    def read(self, size: int) -> bytes:
        if size > self.left:
            raise _too_large(self.name, f"more than {MOST_BYTES:,} bytes, or claims to be")
        self.left -= size
        return self.file.read(size)

    def readline(self) -> bytes:
        line = self.file.readline(1000)
        self.left -= len(line)
        return line


class _Machine:
    """The pickle machine: a stack, marks in it and a memo. Only containers, numbers, texts and the stand-ins lie on it."""

    def __init__(self, name: str) -> None:
        self.name, self.room = name, MOST_BYTES
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def step(self, code: str, argument: Any) -> None:
        """Run one opcode. Raises Refusal for those that plain data does not need."""
        if code in VALUES:
            self.stack.append(argument)
        elif code in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if code == "MEMOIZE" else argument] = self.stack[-1]
        elif code in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif code in FRESH:
            self.stack.append(FRESH[code]())
        elif code in CONSTANTS:
            self.stack.append(CONSTANTS[code])
        elif code == "MARK":
            self.marks.append(len(self.stack))
        elif code in ("APPEND", "APPENDS"):
            self._append(self._top(1) if code == "APPEND" else self._since_mark())
        elif code in ("SETITEM", "SETITEMS"):
            self._set(self._top(2) if code == "SETITEM" else self._since_mark())
        elif code in TUPLES or code == "TUPLE":
            self.stack.append(tuple(self._top(TUPLES[code]) if code in TUPLES else self._since_mark()))
        elif code in ("GLOBAL", "STACK_GLOBAL"):
            self._global(".".join(argument.split(" ", 1) if code == "GLOBAL" else self._top(2)))
        elif code == "REDUCE":
            self._reduce(*self._top(2))
        elif code == "BUILD":
            self._build(self.stack.pop())
        elif code not in WITHOUT_EFFECT:
            raise Refusal(
                f"{self.name} uses the pickle opcode {code}, which plain data does not need; it was not read."
            )

    def _top(self, number: int) -> list[Any]:
        return [self.stack.pop() for _ in range(number)][::-1]

    def _since_mark(self) -> list[Any]:
        at = self.marks.pop()
        items = self.stack[at:]
        del self.stack[at:]
        return items

    def _append(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise ValueError("something is appended to what is no list")
        self.stack[-1].extend(items)

    def _set(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not dict:
            raise ValueError("a key is set in what is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, int, bytes):  # hashing a deeply nested tuple would end the process
                raise ValueError(f"a {type(key).__name__} is a key")
            self.stack[-1][key] = value

    def _global(self, name: str) -> None:
        if name not in ALLOWED:
            raise Refusal(
                f"{self.name} is a pickle that asks for {name}, which could run a program on this machine; only NumPy "
                "arrays and plain containers are read. It is not the official file: get that again."
            )
        self.stack.append(_Global(ALLOWED[name]))

    def _reduce(self, called: Any, arguments: Any) -> None:
        makes = called.makes
        if makes == ARRAY:
            self.stack.append(_Array())
        elif makes == DTYPE:
            self.stack.append(_Dtype(_text(arguments[0])))
        elif makes == BUFFER:
            raw, dtype, shape, order = arguments
            self.stack.append(_Array())
            self.stack[-1].values = self._array(dtype.dtype, shape, raw, fortran=order == "F")
        elif makes == ENCODE and arguments[1] in ("latin1", "latin-1"):
            self._spend(len(arguments[0]))
            self.stack.append(arguments[0].encode("latin-1"))
        else:
            raise ValueError(f"a {makes} is called")

    def _build(self, state: Any) -> None:
        target = self.stack[-1]
        if isinstance(target, _Dtype):
            target.build(state)
        elif isinstance(target, _Array):
            _, shape, dtype, fortran, raw = state
            target.values = self._array(dtype.dtype, shape, raw, fortran=bool(fortran))
        else:
            raise ValueError(f"a {type(target).__name__} is given a state")

    def _array(self, dtype: np.dtype, shape: Any, raw: str | bytes, fortran: bool) -> np.ndarray:
        if len(shape) > 8 or any(type(length) is not int or length < 0 for length in shape):
            raise ValueError("an array has no proper shape")
        size = math.prod(shape) * dtype.itemsize
        if size != len(raw):
            raise ValueError(f"an array of shape {shape} has {len(raw):,} bytes instead of {size:,}")
        self._spend(size)
        data = raw.encode("latin-1") if isinstance(raw, str) else bytes(raw)
        return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")

    def _spend(self, size: int) -> None:
        """Memory is counted, since one memoized text could be made into arrays again and again."""
        self.room -= size
        if self.room < 0:
            raise _too_large(self.name, f"more than {MOST_BYTES:,} bytes of arrays")


def _text(value: Any) -> str:
    """A text of either Python; str() of anything else could recurse until the process ends."""
    if not isinstance(value, str | bytes):
        raise ValueError(f"a {type(value).__name__} stands where a text should")
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _too_large(name: str, how: str) -> Refusal:
    return Refusal(
        f"{name} has {how}; no official batch is that large, so it was not read. Get the official file again."
    )
