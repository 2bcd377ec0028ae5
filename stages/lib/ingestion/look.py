"""One look at an image file during ingestion: what it is, and what shards will hold of it."""

import hashlib
from typing import NamedTuple

from stages.lib.data.endings import ENDINGS
from stages.lib.ingestion.probe import Facts, probe
from stages.lib.ingestion.stored import stored


class Look(NamedTuple):
    """A good image."""

    facts: Facts
    sha256: str
    stored_bytes: int
    stored_sha256: str


def look(data: bytes) -> Look | str:
    """What is known of it, or in one sentence why it cannot be used."""
    facts = probe(data)
    if isinstance(facts, str):
        return facts
    digest = hashlib.sha256(data).hexdigest()
    if facts.format in ENDINGS:
        return Look(facts, digest, len(data), digest)
    kept, _ = stored(data, facts.format)
    return Look(facts, digest, len(kept), hashlib.sha256(kept).hexdigest())
