"""Rehearse failure on this machine: `make drill`, or `python -m flows.drill [--short] [--only killed,S3] [--folder PATH]`.

Everything happens on a small copy of this clone (flows/drill_ground.py) beside the run folders, so on their disk, with this
clone's `system` block: kill a trainer, cut a shard, stop the server ... (flows/drill_faults.py). A table says what should happen,
what happened, and how long it took until the work was further than before. Nothing is left behind, whatever happens; what a drill
leaves that was itself killed outright, the next one removes.

Exit code 0: every promise held; 1: one did not; 2: the drill itself could not be held.
"""

import argparse
import logging
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from flows import drill_faults, drill_ground, settings
from flows.drill_faults import Fault, Found
from flows.drill_ground import Broken, Ground

log = logging.getLogger(__name__)
HEADER = ("fault", "what should happen", "what happened", "recovered after")


def hold(folder: Path, faults: Sequence[Fault]) -> bool:
    """Break one thing after the other, print the table; whether all promises held. Raises Broken."""
    began = time.monotonic()
    rows: list[tuple[Fault, Found]] = []
    log.info("laying out a small copy under %s ...", folder)
    with drill_ground.ground(folder) as ground:
        log.info("it took %.0f s; %d faults follow", time.monotonic() - began, len(faults))
        for fault in faults:
            found = struck(ground, fault)
            rows.append((fault, found))
            log.info("%s: %s", fault.name, found.happened)
        root = ground.folder
    log.info("%s", table(rows))
    left = "nothing is left behind" if not root.exists() else f"{root} could not be removed"
    bad = sum(bool(found.problems) for _, found in rows)
    log.info("%d of %d promises held, in %.0f s; %s", len(rows) - bad, len(rows), time.monotonic() - began, left)
    return not bad and not root.exists()


def struck(ground: Ground, fault: Fault) -> Found:
    """One fault, and that nobody is left running after it."""
    try:
        found = fault.strike(ground)
    except Broken as broken:
        found = Found(f"could not be seen: {broken}", (str(broken),), None)
    left = ground.left()
    if not left:
        return found
    problem = f"still running afterwards: {', '.join(map(str, left))}"
    return Found(f"{found.happened}; {problem}", (*found.problems, problem), found.seconds)


def table(rows: Sequence[tuple[Fault, Found]]) -> str:
    """Markdown, as it can be pasted into a report; `NOT:` before what should not have happened."""
    lines = ["", f"| {' | '.join(HEADER)} |", f"|{'---|' * len(HEADER)}"]
    for fault, found in rows:
        happened = " ".join(found.happened.split()).replace("|", "/")
        took = "-" if found.seconds is None else f"{found.seconds:.1f} s"
        lines.append(f"| {fault.name} | {fault.expected} | {'NOT: ' if found.problems else ''}{happened} | {took} |")
    return "\n".join([*lines, ""])


def chosen(short: bool, only: Sequence[str]) -> list[Fault]:
    """The faults whose names have one of these words. Raises Broken where a word fits none."""
    for word in only:
        if not any(word in fault.name for fault in drill_faults.FAULTS):
            known = "; ".join(fault.name for fault in drill_faults.FAULTS)
            raise Broken(f"no fault has {word!r} in its name; there are: {known}")
    wanted = [fault for fault in drill_faults.FAULTS if not only or any(word in fault.name for word in only)]
    return [fault for fault in wanted if fault.short or not short]


def _interrupt(_signum: int, _frame: FrameType | None) -> None:
    """SIGTERM, as Ctrl-C: what was started is stopped and removed on the way out."""
    raise KeyboardInterrupt


def main() -> None:
    """Parse the command line, hold the drill, leave with its exit code."""
    parser = argparse.ArgumentParser(description="Rehearse failure on this machine, on a small copy.")
    parser.add_argument("--short", action="store_true", help="only what takes less than a minute")
    parser.add_argument("--only", default="", help="words of faults' names, separated by commas")
    parser.add_argument("--folder", type=Path, help="where the copy goes (default: drills, beside the run folders)")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    signal.signal(signal.SIGTERM, _interrupt)
    folder = options.folder or settings.run_root(drill_ground.ROOT) / "drills"
    try:
        held = hold(folder.absolute(), chosen(options.short, [word for word in options.only.split(",") if word]))
    except Broken as broken:
        log.error("the drill could not be held: %s", broken)
        sys.exit(2)
    except KeyboardInterrupt:
        log.warning("the drill was interrupted; what it had started is stopped, its folder removed")
        sys.exit(130)
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
