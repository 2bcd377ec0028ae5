"""Reads the variables of MATLAB files (version 5 to 7) that official sets come with; what is not as published is refused."""

import io
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.io import loadmat

from stages.lib.core.outcome import Refusal

MOST_BYTES = 1 << 26  # ImageNet's meta.mat has 0.4 MB


def numbers(data: bytes, member: str, name: str) -> np.ndarray:
    """i64[n]: a vector of whole numbers. member: the file's path, said in messages. Raises Refusal."""
    values = _variable(data, member, name)
    if values.ndim != 1 or values.dtype.kind not in "iuf" or (values != np.floor(values)).any():
        raise _unexpected(member, f"`{name}` is {values.dtype}{list(values.shape)}, no vector of whole numbers")
    return values.astype(np.int64)


def texts(data: bytes, member: str, name: str) -> list[str]:
    """A cell array of texts. Raises Refusal."""
    values = _variable(data, member, name).tolist()
    if not all(isinstance(value, str) for value in values):
        raise _unexpected(member, f"`{name}` is no cell array of texts")
    return [str(value) for value in values]


def records(data: bytes, member: str, name: str, fields: Sequence[str]) -> list[tuple[Any, ...]]:
    """The named fields of every element of a struct array; scalars and texts as Python's. Raises Refusal."""
    table = _variable(data, member, name)
    lacking = [field for field in fields if field not in (table.dtype.names or ())]
    if lacking or table.ndim != 1:
        raise _unexpected(member, f"`{name}` is no struct array with {', '.join(lacking or fields)}")
    return [tuple(_plain(row[field]) for field in fields) for row in table]


def _plain(value: Any) -> Any:
    """Of what scipy gives a field: a number or text as Python's, a whole float as int, since MATLAB knows only doubles."""
    single = value.item() if isinstance(value, np.generic | np.ndarray) and value.size == 1 else value
    return int(single) if isinstance(single, float) and single.is_integer() else single


def _variable(data: bytes, member: str, name: str) -> np.ndarray:
    """A variable without its dimensions of length 1, but at least a vector."""
    if len(data) > MOST_BYTES:
        raise _unexpected(member, f"it has {len(data):,} bytes, and no official one has more than {MOST_BYTES:,}")
    try:
        with warnings.catch_warnings(), io.BytesIO(data) as file:
            warnings.simplefilter("ignore")
            found = loadmat(file, variable_names=[name], squeeze_me=True, struct_as_record=True, chars_as_strings=True)
    except Exception as error:  # scipy raises anything at all on damaged files
        raise _unexpected(member, f"{type(error).__name__}: {error}") from None
    if name not in found:
        raise _unexpected(member, f"there is no variable `{name}` in it")
    return np.atleast_1d(found[name])


def _unexpected(member: str, why: str) -> Refusal:
    return Refusal(f"{member} is not the MATLAB file of the official set: {why}. Get it again.")
