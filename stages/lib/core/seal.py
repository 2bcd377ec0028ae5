"""A digest over a parquet file's metadata: the format has checksums for its pages, and none for class names or lists of shards."""

import hashlib
from collections.abc import Mapping

SEAL = b"seal"
"""Key under which the digest lies."""


def sealed(metadata: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """The metadata and, under SEAL, the sha256 over them."""
    return {**metadata, SEAL: _digest(metadata)}


def unbroken(metadata: Mapping[bytes, bytes] | None) -> dict[bytes, bytes]:
    """The metadata, compared with their seal where they have one. Raises ValueError."""
    found = dict(metadata or {})
    if SEAL in found and found[SEAL] != _digest(found):
        raise ValueError("its metadata are not those that were written")
    return found


def _digest(metadata: Mapping[bytes, bytes]) -> bytes:
    digest = hashlib.sha256()
    for key in sorted(metadata.keys() - {SEAL, b"ARROW:schema"}):
        digest.update(b"%d %s %d %s" % (len(key), key, len(metadata[key]), metadata[key]))
    return digest.hexdigest().encode()
