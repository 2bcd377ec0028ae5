"""Reads what the stages before wrote, remembers what was read, and refuses a damaged file by name."""

import base64
import csv
import hashlib
import io
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.lib.core.outcome import Refusal
from stages.lib.reporting import measured
from stages.lib.reporting.sources import Fact

PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Record:
    """A JSON object and its file."""

    file: str
    values: dict[str, Any]

    def fact(self, key: str) -> Fact | None:
        """The value at a dotted key; None where there is none."""
        value: Any = self.values
        for part in key.split("."):
            if not isinstance(value, dict) or value.get(part) is None:
                return None
            value = value[part]
        return Fact(value, self.file, key)

    def number(self, key: str) -> float | None:
        """The finite number at a dotted key, else None."""
        fact = self.fact(key)
        if fact is None or isinstance(fact.value, bool) or not isinstance(fact.value, int | float):
            return None
        return float(fact.value) if math.isfinite(fact.value) else None


@dataclass(frozen=True)
class History:
    """One row of numbers an epoch; an empty cell is None."""

    file: str
    rows: list[dict[str, float | None]]

    def column(self, name: str) -> list[tuple[float, float]]:
        """(epoch, value) of every epoch that has one."""
        return [(float(row.get("epoch") or 0), value) for row in self.rows if (value := row.get(name)) is not None]

    def last(self, name: str) -> Fact | None:
        """The newest value of a column."""
        points = self.column(name)
        return Fact(points[-1][1], self.file, f"{name}, epoch {points[-1][0]:.0f}") if points else None

    def epochs(self) -> Fact | None:
        """How many epochs were trained; None for a model that was fetched, whose only row holds no loss."""
        points = self.column("loss")
        return Fact(len(points), self.file, "rows with a loss") if points else None


@dataclass(frozen=True)
class Picture:
    """A PNG, its size in pixels, and itself as a data: address."""

    file: str
    width: int
    height: int
    address: str


class Folder:
    """The pipeline's `data` folder, of which the report reads metrics, history, plots, samples, stored and gate-details."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.read: dict[str, tuple[int, str]] = {}  # file -> (bytes, sha256)

    def bytes_of(self, name: str) -> bytes | None:
        """A file's content; None where there is none."""
        path = self.root / name
        if not path.is_file():
            return None
        data = path.read_bytes()
        self.read[self.label(name)] = len(data), hashlib.sha256(data).hexdigest()
        return data

    def label(self, name: str) -> str:
        """How the page names a file."""
        return (self.root / name).as_posix()

    def record(self, name: str) -> Record | None:
        """A JSON object. Raises Refusal if it is anything else."""
        data = self.bytes_of(name)
        if data is None:
            return None
        try:
            values = measured.numbers(data)
        except ValueError as error:
            raise self._damaged(name, f"is not JSON ({error})") from None
        if not isinstance(values, dict):
            raise self._damaged(name, f"holds a JSON {type(values).__name__}, not an object")
        return Record(self.label(name), values)

    def metrics(self, model: str) -> Record | None:
        """What was measured of a model. Raises Refusal at a value that cannot be one."""
        name = f"metrics/{model}.json"
        record = self.record(name)
        if record and (wrong := measured.problem(record.values, model)):
            raise self._damaged(name, wrong)
        return record

    def table(self, name: str, columns: Sequence[str]) -> list[dict[str, str]] | None:
        """The rows of a CSV file that has at least these columns. Raises Refusal if one is missing or a row is cut short."""
        data = self.bytes_of(name)
        if data is None:
            return None
        try:
            reader = csv.DictReader(io.StringIO(data.decode("utf-8")), strict=True)
            rows = list(reader)
        except (UnicodeDecodeError, csv.Error) as error:
            raise self._damaged(name, f"is not CSV ({error})") from None
        missing = [column for column in columns if column not in (reader.fieldnames or [])]
        if missing:
            raise self._damaged(
                name, f"has no column {missing[0]!r}; it has {', '.join(reader.fieldnames or []) or 'none'}"
            )
        for line, row in enumerate(rows, 2):
            if None in row or None in row.values():
                raise self._damaged(name, f"has a row (no. {line}) with too few or too many cells")
        return rows

    def history(self, model: str) -> History | None:
        """A model's history.csv. Raises Refusal at a cell that is no number."""
        name = f"history/{model}.csv"
        rows = self.table(name, ["epoch", "loss"])
        if rows is None:
            return None
        numbers = [{column: self.number(name, line, row, column) for column in row} for line, row in enumerate(rows, 2)]
        return History(self.label(name), numbers)

    def number(self, name: str, line: int, row: dict[str, str], column: str) -> float | None:
        """A cell as a finite number, None where it is empty. Raises Refusal naming file, line and column."""
        cell = row[column].strip()
        try:
            value = float(cell or "nan")
        except ValueError:
            raise self._damaged(name, f"has {cell!r} in column {column}, line {line}, where a number belongs") from None
        return value if math.isfinite(value) else None

    def picture(self, name: str) -> Picture | None:
        """A PNG under samples/. Raises Refusal if it is none."""
        name = f"samples/{name}.png"
        data = self.bytes_of(name)
        if data is None:
            return None
        if data[:8] != PNG or len(data) < 24:
            raise self._damaged(name, "is not a PNG picture")
        width, height = struct.unpack(">II", data[16:24])
        return Picture(self.label(name), width, height, f"data:image/png;base64,{base64.b64encode(data).decode()}")

    def _damaged(self, name: str, what: str) -> Refusal:
        file = self.label(name)
        return Refusal(
            f"{file} {what}. A stage wrote it whole, so it was changed since: `dvc checkout --force {file}` restores it, "
            f"or delete it and run `dvc repro`."
        )
