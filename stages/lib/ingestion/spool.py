"""Images on their way into a shard whose places are not yet known: encoded in the source's order, put together in the shard's.

<shard>.spool beside the shard, appended to, a record an image: a line of JSON, then the bytes. A record is believed if its bytes
have the sha256 its line tells; behind the first that is torn, by a kill, all is cut off and done again.
"""

import hashlib
import json
from pathlib import Path
from typing import BinaryIO, NamedTuple

from stages.lib.ingestion.reencode import Anew


class Piece(NamedTuple):
    """One record."""

    at: int
    """Of its first byte in the spool."""
    bytes: int
    anew: Anew | None
    """None: stored as it is."""


def append(path: Path, number: int, data: bytes, anew: Anew | None) -> None:
    """Image `number` of the shard."""
    line = json.dumps({"image": number, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "anew": anew})
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(line.encode() + b"\n" + data)


def recover(path: Path) -> dict[int, Piece]:
    """The images that are whole, by number; what lies behind them is cut off."""
    try:
        file = path.open("r+b")
    except FileNotFoundError:
        return {}
    pieces: dict[int, Piece] = {}
    with file:
        end = 0
        while record := _next(file):
            number, piece = record
            pieces[number] = piece
            end = piece.at + piece.bytes
        file.truncate(end)
    return pieces


def _next(file: BinaryIO) -> tuple[int, Piece] | None:
    """The record that begins here; None where there is no whole one."""
    try:
        about = json.loads(file.readline())
        at, data = file.tell(), file.read(about["bytes"])
        whole = len(data) == about["bytes"] and hashlib.sha256(data).hexdigest() == about["sha256"]
        anew = Anew(*about["anew"]) if about["anew"] else None
        return (about["image"], Piece(at, len(data), anew)) if whole else None
    except (ValueError, KeyError, TypeError):
        return None
