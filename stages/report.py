"""One page that tells what happened, offline, a pure function of its inputs.

in    data/metrics, data/history, data/plots, data/samples, data/stored, data/gate-details, data/manifest/<set>-rejected.csv
      of the sets and models params.yaml names
out   data/reports/index.html
run   dvc repro -s report
      python -m stages.report --summary     where the page is and the main numbers; writes nothing
      python -m stages.report compare A B   is the difference between two runs noise? See stages/compare.py; writes nothing
"""

import logging
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


def main() -> None:
    """Write the page, or say in a few lines what it says."""
    if sys.argv[1:2] == ["compare"]:
        compare_runs(sys.argv[2:])
        return
    report, sets = load.load("report", Report), load.load("sets", Sets)
    folder = Folder(Path("data"))
    if sys.argv[1:] == ["--summary"]:
        sys.stdout.write(summary(report, sets, folder, PAGE))
        compare()
        return
    if sys.argv[1:]:
        raise Refusal(
            f"unknown argument {sys.argv[1]!r}; use `python -m stages.report`, `python -m stages.report --summary` or "
            "`python -m stages.report compare A B [--model student] [--head ...]`"
        )
    stale.refuse(folder)
    text = page(report, sets, folder)
    with files.replace(PAGE) as temporary:
        temporary.write_text(text, encoding="utf-8")
    log.info("%s: %d files read, %.1f MB", PAGE, len(folder.read), len(text) / 1e6)


def compare_runs(arguments: list[str]) -> None:
    """Start stages.compare: a program of its own, as no page depends on another run. Raises Refusal where it did."""
    code = subprocess.run([sys.executable, "-m", "stages.compare", *arguments], check=False).returncode
    if code == 2:
        raise Refusal("nothing was compared; what was wrong stands above.")
    if code:
        raise OSError(f"nothing was compared: python -m stages.compare ended with {code}")


def compare() -> None:
    """What `make preflight` predicted beside what was taken, by a program of its own: no page depends on a time (design law 4)."""
    if (files.root() / "preflight.json").is_file():
        sys.stdout.flush()
        subprocess.run([sys.executable, "-m", "stages.preflight", "--compare"], check=False)


if __name__ == "__main__":
    outcome.run("report", main)
