"""One page that tells what happened, offline, a pure function of its inputs.

in    data/metrics, data/history, data/plots, data/samples, data/stored, data/gate-details, data/manifest/<set>-rejected.csv
      of the sets and models params.yaml names
out   data/reports/index.html
run   dvc repro -s report
      python -m stages.report --summary     where the page is and the main numbers; writes nothing
      python -m stages.report compare A B   is the difference between two runs noise? stages/compare.py; writes nothing
      python -m stages.report --live        what runs, took and is stale, in a browser: stages/live.py
"""

import logging
import os
import subprocess
import sys
from pathlib import Path

from stages.lib.core import files, load, outcome
from stages.lib.core.outcome import Refusal
from stages.lib.params.report import Report
from stages.lib.params.sets import Sets
from stages.lib.reporting import stale
from stages.lib.reporting.inputs import Folder
from stages.lib.reporting.page import page
from stages.lib.reporting.summary import summary

log = logging.getLogger(__name__)
PAGE = Path("data/reports/index.html")
OTHERS = {"compare": "stages.compare", "--live": "stages.live"}
"""What this becomes by its first argument: programs of their own, as the page holds no clock and depends on no other run."""


def main() -> None:
    """Write the page, or say in a few lines what it says."""
    report, sets = load.load("report", Report), load.load("sets", Sets)
    folder = Folder(Path("data"))
    if sys.argv[1:] == ["--summary"]:
        sys.stdout.write(summary(report, sets, folder, PAGE))
        forecast()
        return
    if sys.argv[1:]:
        raise Refusal(
            f"unknown argument {sys.argv[1]!r}; use `python -m stages.report` alone or with --summary, --live or "
            "compare A B [--model student] [--head ...]"
        )
    stale.refuse(folder)
    text = page(report, sets, folder)
    with files.replace(PAGE) as temporary:
        temporary.write_text(text, encoding="utf-8")
    log.info("%s: %d files read, %.1f MB", PAGE, len(folder.read), len(text) / 1e6)


def forecast() -> None:
    """What `make preflight` predicted beside what was taken, by a program of its own: no page depends on a time (design law 4)."""
    if (files.root() / "preflight.json").is_file():
        sys.stdout.flush()
        subprocess.run([sys.executable, "-m", "stages.preflight", "--compare"], check=False)


if __name__ == "__main__":
    if (other := OTHERS.get(sys.argv[1] if len(sys.argv) > 1 else "")) is not None:
        os.execv(sys.executable, [sys.executable, "-m", other, *sys.argv[2:]])
    outcome.run("report", main)
