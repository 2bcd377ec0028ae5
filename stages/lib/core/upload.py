"""S3: the seam that publishing is written against; the part that owns S3 brings the real one under the same names."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from stages.lib.core.outcome import Refusal


class Sent(NamedTuple):
    """What an upload did."""

    uploaded: int
    kept: int


def upload_folder(folder: Path, uri: str, last: Sequence[str]) -> Sent:
    """Publish every file of a folder, those in `last` last. Raises Refusal."""
    raise Refusal(f"{uri}: S3 is not joined here yet, so {folder} was not published ({', '.join(last)} last).")
