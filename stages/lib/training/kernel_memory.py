"""Choices of kernels this machine has made, beside the compiled libraries: two runs of one recipe must choose alike."""

import json
import logging
from pathlib import Path
from typing import Any

from stages.lib.core import files, native

log = logging.getLogger(__name__)
Choice = dict[str, Any]


def place() -> Path:
    """One JSON file for all."""
    return native.folder() / "kernels.json"


def remembered(name: str) -> Choice | None:
    """An earlier choice; None: there is none, or none that can be read."""
    return _read().get(name)


def remember(name: str, choice: Choice) -> None:
    """Keep a choice for later runs; a place that cannot be written costs them a measurement, nothing else."""
    try:
        with files.replace(place()) as temporary:
            temporary.write_text(json.dumps({**_read(), name: choice}, indent=1, sort_keys=True) + "\n")
    except OSError as error:
        log.info("the choice of kernels is not remembered for other runs: %s", error)


def _read() -> dict[str, Choice]:
    try:
        found = json.loads(place().read_text())
    except (OSError, ValueError):
        return {}
    return (
        {name: choice for name, choice in found.items() if isinstance(choice, dict)} if isinstance(found, dict) else {}
    )
