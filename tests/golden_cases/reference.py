"""A folder of reference numbers, and the table its comparison fills."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.golden_formula import Formula

EXACT = 0.0


class Arrays(dict[str, np.ndarray]):
    """The arrays of one .npz; remembers which were read, so that what nobody compared can be named."""

    def __init__(self, path: Path) -> None:
        with np.load(path, allow_pickle=False) as file:
            super().__init__({name: file[name] for name in file.files})
        self.read: set[str] = set()
        self.name = path.name

    def __missing__(self, name: str) -> np.ndarray:
        raise KeyError(f"{self.name} has no array {name}")

    def __getitem__(self, name: str) -> np.ndarray:
        self.read.add(name)
        return super().__getitem__(name)

    def tensor(self, name: str, dtype: torch.dtype | None = None) -> torch.Tensor:
        """An array as a tensor, in `dtype` if given."""
        return torch.from_numpy(self[name]).to(dtype or torch.from_numpy(self[name]).dtype)

    @property
    def unread(self) -> list[str]:
        """Arrays nobody asked for."""
        return sorted(set(self) - self.read)


class Reference:
    """A golden folder: <stem>.json, <stem>.npz and constants.json."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.opened: dict[str, Arrays] = {}

    @cached_property
    def formula(self) -> Formula:
        """The folder's closed-form tensors."""
        return Formula(self.json("constants"))

    def json(self, stem: str) -> Any:
        """The JSON part of a case. Raises FileNotFoundError."""
        return json.loads((self.folder / f"{stem}.json").read_text(encoding="utf-8"))

    def arrays(self, stem: str) -> Arrays:
        """The arrays of a case. Raises FileNotFoundError."""
        if stem not in self.opened:
            self.opened[stem] = Arrays(self.folder / f"{stem}.npz")
        return self.opened[stem]


@dataclass
class Row:
    """One line of the table: everything compared under one name, with one tolerance or exactly."""

    tolerance: float
    difference: float = 0.0
    compared: int = 0
    worst: str = ""
    """Where the largest difference is, or what went wrong."""

    @property
    def passed(self) -> bool:
        """Whether something was compared and nothing differed by more than the tolerance."""
        return self.compared > 0 and self.difference <= self.tolerance


@dataclass
class Table:
    """Rows by name, in the order they came."""

    rows: dict[str, Row] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Something to know that is no failure."""
        self.notes.append(text)

    def compare(self, name: str, ours: Any, theirs: Any, tolerance: float, item: str = "") -> None:
        """Largest absolute difference; other shapes, or anything not finite, differ infinitely."""
        mine, other = _numbers(ours), _numbers(theirs)
        if mine.shape != other.shape:
            self._add(name, math.inf, tolerance, 1, f"{item} shape {mine.shape} instead of {other.shape}".strip())
            return
        differences = np.abs(mine - other)
        largest = float(differences.max()) if differences.size else 0.0
        self._add(name, largest if math.isfinite(largest) else math.inf, tolerance, max(1, differences.size), item)

    def same(self, name: str, ours: Any, theirs: Any, item: str = "") -> None:
        """Equal, or infinitely different."""
        if ours == theirs:
            self._add(name, 0.0, EXACT, 1, item)
        else:
            self._add(name, math.inf, EXACT, 1, f"{item} {_short(ours)} instead of {_short(theirs)}".strip())

    def fail(self, name: str, reason: str) -> None:
        """A row that cannot pass."""
        self._add(name, math.inf, EXACT, 1, reason)

    def _add(self, name: str, difference: float, tolerance: float, count: int, item: str) -> None:
        row = self.rows.setdefault(name, Row(tolerance))
        row.tolerance = max(row.tolerance, tolerance)
        if difference > row.difference or not row.compared:
            row.worst, row.difference = item, max(difference, row.difference)
        row.compared += count


@dataclass(frozen=True)
class Case:
    """One case of a folder on its way through the check; rows are named after it."""

    reference: Reference
    stem: str
    table: Table

    @cached_property
    def data(self) -> Any:
        """Its JSON."""
        return self.reference.json(self.stem)

    @property
    def arrays(self) -> Arrays:
        """Its arrays."""
        return self.reference.arrays(self.stem)

    @property
    def formula(self) -> Formula:
        """The folder's closed-form tensors."""
        return self.reference.formula

    def compare(self, row: str, ours: Any, theirs: Any, tolerance: float, item: str = "") -> None:
        """Table.compare under `<stem> <row>`."""
        self.table.compare(f"{self.stem} {row}", ours, theirs, tolerance, item)

    def same(self, row: str, ours: Any, theirs: Any, item: str = "") -> None:
        """Table.same under `<stem> <row>`."""
        self.table.same(f"{self.stem} {row}", ours, theirs, item)

    def given(self, ours: Any, name: str) -> None:
        """A stored input is what the formula says, bit for bit."""
        self.compare("inputs", ours, self.arrays[name], EXACT, name)

    def summaries(
        self, row: str, ours: Mapping[str, torch.Tensor | None], theirs: Mapping[str, Any], tolerance: float
    ) -> None:
        """The summaries of every tensor the reference lists; None stands for no gradient."""
        for name, reference in theirs.items():
            value = ours[name]
            if value is None:
                self.same(row, None, reference, name)
                continue
            found = summary(self.formula, name, value)
            for kind, number in reference.items():
                self.compare(row, found[kind], number, tolerance, f"{name} {kind}")


def summary(formula: Formula, name: str, value: torch.Tensor) -> dict[str, float]:
    """l2, max_abs, sum and probe_dot of a tensor, in double precision."""
    array = value.detach().double().numpy()
    return {
        "l2": float(np.sqrt((array**2).sum())),
        "max_abs": float(np.abs(array).max()),
        "sum": float(array.sum()),
        "probe_dot": float((array * formula.probe(name, array.shape)).sum()),
    }


def _numbers(value: Any) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        value = value.detach().numpy()
    return np.asarray(value, dtype=np.float64)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
