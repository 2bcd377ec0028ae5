"""How a stage ends: its exit code, and last_exit.json saying why and whether trying again makes sense.

DVC replaces a stage's exit code by its own, so what runs DVC for us reads <run root>/<stage>[@<item>]/last_exit.json:
`{"code": 0, "reason": "finished", "retryable": false}`, and the same in a folder of its own where it named one
(stages/lib/core/tell.py). A stage that was killed outright leaves no such file.
"""

import contextlib
import errno
import json
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NoReturn, TypeGuard

from stages.lib.core import files, tell
from stages.lib.core.signals import Stopped
from stages.lib.params.credentials import masked, say

log = logging.getLogger(__name__)
FULL = (errno.ENOSPC, errno.EDQUOT)
LIMITED = (errno.EFBIG,)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


class Refusal(Exception):
    """Something a person has to put right: trying again would end the same way. The message says what, and how."""


@dataclass(frozen=True)
class Ending:
    """Exit code, one sentence, and whether the same command may do better next time."""

    code: int
    reason: str
    retryable: bool


FINISHED = Ending(0, "finished", retryable=False)


def run(stage: str, main: Callable[[], None]) -> NoReturn:
    """Run a stage's main() and leave the process: 0 finished, 2 refused, 128 + signal stopped, 1 anything else.

    DVC names the stage in $DVC_STAGE; without DVC it is `stage` and the first argument of the command line.
    Log lines go to stderr as they are, without passwords. A Refusal is shown without a traceback; it alone is not worth a retry.
    """
    items = [argument for argument in sys.argv[1:2] if not argument.startswith("-")]
    here = stage if "@" in stage else "@".join([stage, *items])
    stage = os.environ.get("DVC_STAGE", here).replace("/", "_")
    say()
    logging.getLogger("timm").setLevel(logging.WARNING)  # three lines for every model it loads
    tell.speak()
    _record(stage, None)
    ending = _told(stage, main)
    _record(stage, ending)
    sys.exit(ending.code)


def unwritable(error: BaseException) -> TypeGuard[OSError]:
    """Whether a file could not go where it should, for want of room or leave: such an OSError says enough without a traceback."""
    if not isinstance(error, OSError):
        return False
    return error.errno in FULL or (error.errno in (*LIMITED, *FORBIDDEN) and error.filename is not None)


def ending_of(error: BaseException) -> Ending:
    """An exception that left main(), in numbers; what opens doors is masked in its words."""
    ending = _ending_of(error)
    return replace(ending, reason=masked(ending.reason))


def _ending_of(error: BaseException) -> Ending:
    if isinstance(error, Refusal):
        return Ending(2, str(error), retryable=False)
    if isinstance(error, Stopped):
        return Ending(128 + error.signum, str(error), retryable=True)
    if isinstance(error, KeyboardInterrupt):
        return Ending(130, "interrupted", retryable=True)
    if unwritable(error):
        return Ending(1, _unwritten(error), retryable=True)
    return Ending(1, f"{type(error).__name__}: {error}", retryable=True)


def _unwritten(error: OSError) -> str:
    """What a person does about it."""
    where = f" where {error.filename} should go" if error.filename else ""
    why, cure = f"the disk is full{where}", "free some space"
    if error.errno in LIMITED:
        why, cure = f"a file may not become as large as {error.filename}", "raise the limit (ulimit -f)"
    if error.errno in FORBIDDEN:
        why, cure = f"{error.strerror}: {error.filename}", "let this user read and write there"
    return f"{why}. Nothing that was finished is lost: {cure}, and the same command continues."


def _told(stage: str, main: Callable[[], None]) -> Ending:
    """Call main() and tell the person at the terminal what came out of it."""
    try:
        main()
    except BaseException as error:  # SystemExit too: no stage leaves by it
        ending = ending_of(error)
        if ending.code == 2:
            log.error("%s", ending.reason)
        elif ending.code > 128:
            log.warning("%s: %s", stage, ending.reason)
        elif unwritable(error):
            log.error("%s: %s", stage, ending.reason)
        else:
            log.exception("%s failed", stage)
        return ending
    return FINISHED


def _record(stage: str, ending: Ending | None) -> None:
    """Replace last_exit.json in the run root and where we are to tell; each for itself, as one of the two may be full."""
    text = None if ending is None else json.dumps(asdict(ending), indent=1) + "\n"
    for place in (files.root() / stage, tell.folder() if tell.speaks() else None):
        try:
            if place is not None:
                _write(place / "last_exit.json", text)
        except Exception as error:  # a full disk must not hide what really happened
            log.warning("could not write last_exit.json: %s", error)


def _write(path: Path, text: str | None) -> None:
    """Whole or not at all; None removes the one before, so that a kill is not read as that run's success."""
    if text is None:
        path.unlink(missing_ok=True)
        return
    with files.replace(path) as temporary:
        temporary.write_text(text)


def tell_ending(ending: Ending) -> None:
    """For a process that leaves by itself, as a worker of somebody else's torchrun does: say how, to whoever wants to know."""
    with contextlib.suppress(Exception):
        if (place := tell.folder()) is not None:
            _write(place / "last_exit.json", json.dumps(asdict(ending), indent=1) + "\n")
