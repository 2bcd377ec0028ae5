"""Try every planted fault and print what came of it, as a table in markdown: python -m tests.faults [a word of their names]."""

import logging
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from stages.lib.core.outcome import Refusal
from tests.faults.catalogue import FAULTS, KINDS
from tests.faults.fault import Bench, Fault
from tests.faults.trial import Verdict, clean, tried


def main(word: str = "") -> int:
    """The number of faults that were not found as they should be, and of false alarms."""
    logging.disable(logging.CRITICAL)
    chosen = [fault for fault in FAULTS if word in str(fault)]
    kinds = [kind for kind in KINDS if any(fault.bench is kind for fault in chosen)]
    began, found, wrong = time.monotonic(), Counter[str](), 0
    sys.stdout.write("| fault | detected by | recorded | message |\n|---|---|---|---|\n")
    with tempfile.TemporaryDirectory() as folder:
        for number, fault in enumerate(chosen):
            where, recorded, message, good = row(fault, Path(folder) / str(number))
            found[where] += good
            wrong += not good
            sys.stdout.write(
                f"| {fault} | {where}{'' if good else ' **NOT AS IT SHOULD**'} | {recorded} | {message} |\n"
            )
            sys.stdout.flush()
        false = [kind.kind for kind in kinds if alarmed(kind, Path(folder) / kind.__name__ / kind.kind)]
    stages = ", ".join(f"{stage} {count}" for stage, count in found.most_common())
    sys.stdout.write(
        f"\n{len(chosen)} faults planted in {len(kinds)} kinds of clean data: {len(chosen) - wrong} found as they should be "
        f"({stages}); false alarms on clean data: {', '.join(false) or 'none'}; {time.monotonic() - began:.0f} s\n"
    )
    return wrong + len(false)


def row(fault: Fault, folder: Path) -> tuple[str, str, str, bool]:
    """(detected by, recorded, message, whether that is as it should be)."""
    try:
        verdict = tried(fault, folder)
    except Exception as error:  # a crash of the product is a row like any other
        return "crash", type(error).__name__, cell(str(error)), False
    good = verdict.where == fault.where and all(piece in verdict.message for piece in fault.says)
    message = telling(verdict, fault).replace(f"{folder}/", "")
    return verdict.where or "nobody", recorded(verdict), cell(message), good


def recorded(verdict: Verdict) -> str:
    """What is kept of it, and of the good data."""
    retry = "worth a retry" if verdict.retryable else "no retry"
    return cell(f"exit {verdict.code}, {retry}; {verdict.kept}")


def telling(verdict: Verdict, fault: Fault) -> str:
    """The line of the message that names the thing."""
    lines = verdict.message.splitlines()
    return next((line for line in lines for piece in fault.says[:1] if piece in line), " ".join(lines)).strip()


def cell(text: str, most: int = 170) -> str:
    """One line of a table."""
    line = " ".join(text.split()).replace("|", "/")
    return line if len(line) <= most else line[: most - 3] + "..."


def alarmed(kind: type[Bench], folder: Path) -> bool:
    """Whether clean data raise an alarm."""
    try:
        clean(kind, folder)
    except Refusal:
        return True
    return False


if __name__ == "__main__":
    sys.exit(bool(main(*sys.argv[1:2])))
