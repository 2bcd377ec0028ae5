"""What a stage made, as Prefect artifacts: its metrics, a gate's verdict with the rows that differ, its images, where to read on.

Flows call `of_stage` after each stage and hand what it gives to telemetry.post. Nothing here talks to a server, and nothing here
raises: a file that is missing, empty or odd is a line in an artifact, or no artifact, and never a failed stage.
"""

import base64
import csv
import html
import io
import json
import logging
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

log = logging.getLogger(__name__)
NUMBERS = {
    ("metrics", ".json"),
    ("history", ".csv"),
    ("stored", ".json"),
}  # folders and endings of small files of numbers
ROWS = 100  # rows that differ shown for a gate, over all its expectations
LINES = 400  # lines of a table
WORDING = {"row_condition": "where", "mostly": "for a share of rows of at least"}
WORDS = 300  # characters of a cell
IMAGE_BYTES = 200_000  # of one encoded image; as text it is a third longer
ALL_IMAGE_BYTES = 220_000  # of all images of an artifact: the UI fetches every artifact of a page whole
WIDE, SMALL = 1024, 512  # pixels: no image is wider than the first, tiny ones are enlarged up to the second
QUALITIES = (90, 80, 65)  # of JPEG, tried in turn once a PNG is too large


@dataclass(frozen=True)
class Shown:
    """An artifact before it is posted: Prefect's type (`table`, `markdown`), its key, its data as the API stores it."""

    kind: str
    key: str
    data: str
    description: str


def of_stage(root: Path, outs: Sequence[str], stage: str) -> list[Shown]:
    """Artifacts of a stage (`distill`, `evaluate@student`) from the files among its outs, which are relative to root.

    Metrics and the last row of a history make one table, gate details a page, images another. Never raises.
    """
    paths = [root / out for out in outs]
    numbers = [path for path in paths if (path.parent.name, path.suffix) in NUMBERS]
    gates = [path for path in paths if path.parent.name == "gate-details" and path.suffix == ".json"]
    pictures = [path for path in paths if path.suffix == ".png"]
    made = [
        _tried(stage, partial(metrics, stage, numbers)),
        *(_tried(stage, partial(gate, stage, path)) for path in gates),
        _tried(stage, partial(images, stage, pictures)),
    ]
    return [shown for shown in made if shown is not None]


def key(kind: str, stage: str) -> str:
    """`metrics-evaluate-student`: lowercase letters, digits and dashes, the same for a stage on every run."""
    return re.sub(r"[^a-z0-9]+", "-", f"{kind}-{stage}".lower()).strip("-")


def links(stage: str, run_folder: Path | None = None) -> Shown | None:
    """Where to read on: $TUTELAGE_TENSORBOARD_URL (at the run folder, where there is one) and $TUTELAGE_REPORT_URL.

    None where neither is set.
    """
    found = [
        ("Live and past curves (TensorBoard)", tensorboard_url(run_folder)),
        ("The report", _url("TUTELAGE_REPORT_URL")),
    ]
    lines = [f"- [{text}](<{url}>)" for text, url in found if url]
    return (
        Shown("markdown", key("links", stage), "\n".join(lines), f"Where to read on about {stage}") if lines else None
    )


def tensorboard_url(run_folder: Path | None = None) -> str | None:
    """TensorBoard's time series, only those of a run folder (<run root>/<stage>/<identity>) where one is given; None if unset."""
    base = _url("TUTELAGE_TENSORBOARD_URL")
    if base is None or run_folder is None:
        return base
    wanted = re.escape("/".join(run_folder.parts[-2:])).replace("\\-", "-")
    return f"{base.rstrip('/')}/?{urlencode({'runFilter': wanted}, quote_via=quote)}#timeseries"


def metrics(stage: str, paths: Iterable[Path]) -> Shown | None:
    """A table of every number in metrics files, and of the last row of a history; None where there is no file."""
    rows: list[dict[str, Any]] = []
    for path in paths:
        rows += _read(path, _history if path.suffix == ".csv" else _numbers)
    if not rows:
        return None
    rows = [
        *rows[:LINES],
        *([{"metric": f"and {len(rows) - LINES:,} more", "value": None}] if len(rows) > LINES else []),
    ]
    return Shown("table", key("metrics", stage), json.dumps(rows, allow_nan=False), f"What {stage} measured")


def gate(stage: str, path: Path) -> Shown | None:
    """A page of a gate's details: the verdict, every expectation, and the rows that break one; None where there is no file."""
    if not path.is_file():
        return None
    try:
        details = json.loads(path.read_text(encoding="utf-8"))
        text = _gate_page(details)
        verdict = _verdict(details)
    except Exception as error:  # written by another version, or torn: the stage's own message stands in the log
        text = verdict = f"{path.name} cannot be shown: {_cell(f'{type(error).__name__}: {error}')}"
    return Shown("markdown", key("gate", path.stem), text, f"{stage}: {verdict}")


def images(stage: str, paths: Iterable[Path]) -> Shown | None:
    """A page with the images in it, made small enough to be sent around; None where there is no file."""
    there = [path for path in paths if path.is_file()]
    room = min(IMAGE_BYTES, ALL_IMAGE_BYTES // max(1, len(there)))
    parts = []
    for path in there:
        try:
            url, note = _data_url(path, room)
            parts.append(f"**{_cell(path.name)}**{note}\n\n![{_cell(path.stem)}]({url})")
        except Exception as error:  # Pillow has many ways to dislike a file
            parts.append(f"**{_cell(path.name)}** cannot be shown: {_cell(f'{type(error).__name__}: {error}')}")
    return Shown("markdown", key("images", stage), "\n\n".join(parts), f"What {stage} looked at") if parts else None


def _tried(stage: str, make: Callable[[], Shown | None]) -> Shown | None:
    """The last line of defence: an artifact that cannot be made is told to the log."""
    try:
        return make()
    except Exception:
        log.warning("%s: an artifact could not be made", stage, exc_info=True)
        return None


def _url(variable: str) -> str | None:
    """A web address out of the environment; None where it is unset or no web address."""
    value = os.environ.get(variable, "").strip()
    return value if re.fullmatch(r"https?://[^\s<>]+", value) else None


def _read(path: Path, rows_of: Callable[[Path], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Rows of a file; one row saying so where it is odd, none where it is missing."""
    if not path.is_file():
        return []
    try:
        return rows_of(path)
    except Exception as error:
        return [{"metric": path.name, "value": f"cannot be shown: {type(error).__name__}: {error}"[:WORDS]}]


def _numbers(path: Path) -> list[dict[str, Any]]:
    return [{"metric": name, "value": value} for name, value in flat(json.loads(path.read_text(encoding="utf-8")))]


def _history(path: Path) -> list[dict[str, Any]]:
    """The last row of a history, as the trainer wrote it."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        return [{"metric": path.name, "value": "no epoch yet"}]
    last = {str(name): _finite(_number(value)) for name, value in rows[-1].items() if value not in (None, "")}
    return [{"metric": f"last epoch: {name}", "value": value} for name, value in last.items()]


def flat(values: Any, name: str = "") -> list[tuple[str, Any]]:
    """Nested mappings and lists as (`heads.class.top1`, value); what JSON or a table cannot hold becomes text."""
    if isinstance(values, Mapping) and values:
        return [pair for part, value in values.items() for pair in flat(value, f"{name}.{part}" if name else str(part))]
    if isinstance(values, list) and any(isinstance(value, (Mapping, list)) for value in values):
        return [
            pair
            for place, value in enumerate(values)
            for pair in flat(value, f"{name}.{place}" if name else str(place))
        ]
    return [(name or "value", _finite(values))]


def _finite(value: Any) -> Any:
    """A value as a cell of a table: no NaN (JSON has none), nothing endless."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return (", ".join(map(str, value)) if isinstance(value, list) else str(value))[:WORDS]


def _number(value: Any) -> Any:
    try:
        return int(value) if re.fullmatch(r"-?\d+", value) else float(value)
    except (TypeError, ValueError):
        return value


def _gate_page(details: Mapping[str, Any]) -> str:
    """Verdict, what is broken with its rows, then every expectation as a list: the UI does not wrap the cells of a table."""
    found = sorted(details["expectations"], key=lambda one: bool(one["success"]))
    parts = [f"## {'✓' if details['passed'] else '✗'} {_verdict(details)}", _cell(details.get("about", ""))]
    room = ROWS
    for one in (one for one in found if not one["success"]):
        text, room = _broken(one, room)
        parts.append(text)
    lines = [f"- {'✓' if one['success'] else '✗'} {_told(one)} · {_observed(one)}" for one in found]
    parts += ["### Every expectation", "\n".join(lines[:LINES])]
    parts += [f"and {len(lines) - LINES:,} more"] if len(lines) > LINES else []
    suite = details.get("suite")
    parts += (
        [f"Limits: {_cell(suite)}. An edited limit runs this gate again, and nothing that ran before it."]
        if suite
        else []
    )
    return "\n\n".join(part for part in parts if part)


def _broken(one: Mapping[str, Any], room: int) -> tuple[str, int]:
    """A broken expectation with the rows that break it, at most `room`; and the room that is left."""
    rows = [row for row in one.get("rows") or [] if isinstance(row, Mapping)]
    shown = rows[:room]
    more = (one.get("unexpected") or len(rows)) - len(shown)
    parts = [f"### ✗ {_told(one)}", *([_cell(one["why"])] if one.get("why") else []), f"Observed: {_observed(one)}."]
    parts += [f"Could not be evaluated: {_cell(one['error'])}"] if one.get("error") else []
    if shown:
        names = list(dict.fromkeys(name for row in shown for name in row))
        parts.append(_grid(names, [[_plain(row.get(name)) for name in names] for row in shown]))
    parts += [f"and {more:,} more"] if more > 0 else []
    return "\n\n".join(parts), room - len(shown)


def _told(one: Mapping[str, Any]) -> str:
    """Table and sentence of an expectation, as markdown."""
    return f"{_cell(one.get('table'))}: {_cell(sentence(one))}"


def _verdict(details: Mapping[str, Any]) -> str:
    total, failed = len(details["expectations"]), int(details["failed"])
    name = _cell(details["gate"])
    return (
        f"{name}: {failed} of {total} expectations do not hold" if failed else f"{name}: all {total} expectations hold"
    )


def sentence(expectation: Mapping[str, Any]) -> str:
    """An expectation in words: `width: values to be at least 4 and at most 30,000, where split == 'train'`."""
    limits = dict(expectation["kwargs"])
    columns = [limits.pop(name) for name in ("column", "column_A", "column_B") if name in limits]
    columns += limits.pop("column_list", [])
    words = str(expectation["type"]).removeprefix("expect_").removeprefix("column_").replace("_", " ")
    above = "above" if limits.pop("strict_min", False) else "at least"
    below = "below" if limits.pop("strict_max", False) else "at most"
    ends = [(above, limits.pop("min_value", None)), (below, limits.pop("max_value", None))]
    ends = [(word, value) for word, value in ends if value is not None]
    if ends:
        words = f"{words.removesuffix(' between')} {' and '.join(f'{word} {_shown(value)}' for word, value in ends)}"
    if "value_set" in limits:
        words += f" {_shown(limits.pop('value_set'))}"
    told = [WORDING.get(name, name.replace("_", " ")) + f" {_shown(value)}" for name, value in limits.items()]
    return ", ".join([f"{', '.join(map(str, columns))}: {words}" if columns else words, *told])


def _observed(one: Mapping[str, Any]) -> str:
    """What was seen, and how many rows differ, as markdown."""
    seen = [] if one.get("observed") is None else [_cell(one["observed"])]
    if one.get("unexpected"):
        seen.append(f"{one['unexpected']:,} of {one.get('checked') or 0:,} rows differ")
    return "; ".join(seen) or "nothing"


def _shown(value: Any) -> str:
    if value is None:
        return "\u2013"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return "{" + ", ".join("(none)" if one == "" else _shown(one) for one in value) + "}"
    return str(value)


def _plain(value: Any) -> Any:
    """A cell of a row that somebody will look up: 17920, not 17,920."""
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def _grid(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A markdown table."""
    lines = [list(map(_cell, head)), ["---"] * len(head), *([_cell(value) for value in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: Any) -> str:
    """Any value as text inside markdown: one line, nothing that becomes markup, not endless."""
    text = " ".join((value if isinstance(value, str) else _shown(value)).split())
    text = text if len(text) <= WORDS else text[: WORDS - 1] + "…"
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", html.escape(text, quote=False))


def _data_url(path: Path, room: int) -> tuple[str, str]:
    """An image as a URL that holds it, in at most `room` bytes; and a note where it is not shown as it is in the file."""
    from PIL import Image  # here: importing a flow stays quick

    with Image.open(path) as opened:
        image = opened.convert("RGB")
    width, height = image.size
    if (times := SMALL // max(image.size)) > 1:  # a digit of 16 pixels is a speck on a screen
        image = image.resize((width * times, height * times), Image.Resampling.NEAREST)
    elif width > WIDE:
        image = image.resize((WIDE, max(1, round(height * WIDE / width))), Image.Resampling.LANCZOS)
    kind, data, size = _encoded(image, room)
    url = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    if (kind, size) == ("png", (width, height)):
        return url, ""
    shown = f"{width} x {height} pixels, shown as {size[0]} x {size[1]}"
    return url, f" ({shown}{', compressed' if kind == 'jpeg' else ''})"


def _encoded(image: Any, room: int) -> tuple[str, bytes, tuple[int, int]]:
    """(format, bytes, size): PNG where that is small enough, else JPEG, worse and then smaller until it fits."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    if buffer.tell() <= room:
        return "png", buffer.getvalue(), image.size
    while True:
        for quality in QUALITIES:
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=quality)
            if buffer.tell() <= room:
                return "jpeg", buffer.getvalue(), image.size
        if max(image.size) <= 16:
            raise ValueError(f"{buffer.tell():,} bytes at 16 pixels, more than {room:,}")
        image = image.resize((max(1, image.width * 2 // 3), max(1, image.height * 2 // 3)))
