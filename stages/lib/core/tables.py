"""A parquet file that is not what a stage wrote: cut off, damaged, or of another kind. Said in words, wherever it is read."""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa

from stages.lib.core.outcome import Refusal

DAMAGED = (pa.ArrowException, OSError, ValueError, KeyError, TypeError)
"""What reading it raises: pyarrow's own, a column or metadata that is not there, JSON in it that is none."""

SEAL = b"seal"
"""Key of the metadata under which their digest lies: parquet has checksums for its pages, and none for these."""


def sealed(metadata: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """The metadata and, under SEAL, the sha256 over them."""
    return {**metadata, SEAL: _digest(metadata)}


def opened(metadata: Mapping[bytes, bytes]) -> Mapping[bytes, bytes]:
    """The metadata, compared with their seal where they have one. Raises ValueError, which `intact` puts into words."""
    if SEAL in metadata and metadata[SEAL] != _digest(metadata):
        raise ValueError("its metadata are not those that were written")
    return metadata


def _digest(metadata: Mapping[bytes, bytes]) -> bytes:
    digest = hashlib.sha256()
    for key in sorted(metadata.keys() - {SEAL, b"ARROW:schema"}):
        digest.update(b"%d %s %d %s" % (len(key), key, len(metadata[key]), metadata[key]))
    return digest.hexdigest().encode()


@contextlib.contextmanager
def intact(path: Path) -> Iterator[None]:
    """Around everything that is taken out of `path`. Raises Refusal where that fails, with what to do."""
    try:
        yield
    except DAMAGED as error:
        why = _why(error)
        raise Refusal(
            f"{path} is damaged, or no file of this pipeline ({why}). A stage wrote it whole, so it was changed since: "
            f"`dvc checkout --force {path}` restores it, or delete it and `dvc repro` makes it again."
        ) from None


def _why(error: Exception) -> str:
    """In a few words, on one line."""
    if isinstance(error, TypeError):
        return "its metadata, such as class names, is not there"
    if isinstance(error, KeyError):
        return f"not there: {error}"
    return " ".join(str(error).split()) or type(error).__name__
