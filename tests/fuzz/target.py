"""What a reader under test has to bring."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.mutation import Change


@dataclass(frozen=True)
class Target:
    """One reader, and files it reads well."""

    read: Callable[[Path], object]
    """Reads a file as the pipeline does: returns, or raises Refusal. Anything else is a defect."""
    good: Sequence[bytes]
    tokens: Sequence[bytes] = ()
    changes: Sequence[Change] = field(default=())
