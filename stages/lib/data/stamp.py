"""Which weights and which images a measurement is of. Its files carry that, so that files of two measurements are told apart.

A stamp is a list of `<what> <sha256>`: of the model folder and of the index. A list, as `dvc metrics` and `dvc exp show` have no
column for one.
"""

from pathlib import Path
from typing import Any

from stages.lib.core import files

Stamp = list[str]


def of(model: Path, index: Path) -> Stamp:
    """Of what lies there now."""
    return [f"model {files.sha256(model)}", f"index {files.sha256(index)}"]


def difference(ours: Any, theirs: Any) -> str:
    """`model (1f2e3d4c and 5b6a7988)`: what two stamps do not share; empty where they are the same."""
    first, second = _parts(ours), _parts(theirs)
    return " and ".join(
        f"{what} ({first.get(what, 'unknown')[:8]} and {second.get(what, 'unknown')[:8]})"
        for what in sorted(first.keys() | second.keys(), reverse=True)
        if first.get(what) != second.get(what)
    )


def _parts(stamp: Any) -> dict[str, str]:
    """what -> sha256; nothing of what is no stamp."""
    lines = stamp if isinstance(stamp, list) else []
    return {line.split(" ")[0]: line.split(" ")[1] for line in lines if isinstance(line, str) and line.count(" ") == 1}
