"""Every row of the step benchmark that a GPU is wanted for, in one go, the most important first.

    python -m benchmarks.gpu --results gpu.jsonl [--images <tar of JPEGs>] [--minutes 25] [--models mae-large,...]

Each model has a process of its own, whose rows are appended to --results as they are measured: what is cut short keeps what it
has, one model's failure costs the others nothing, and the same command goes on with the rows that are not there yet.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.step_models import TEACHER

MODELS = (
    "mae-large",
    TEACHER,
    "deit-base",
    "mae-base",
    "deit-small",
    "deit-tiny",
    "mae-huge",
    "micro-mae",
    "micro-deit",
)
"""Those with goals first."""
LEAST = 60.0
"""Seconds: with less left nothing is begun, since compiling alone takes longer."""
STEP = (sys.executable, "-m", "benchmarks.step", "--device", "cuda", "--json", "--seconds", "5")


def runs(models: Sequence[str], images: bool) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(model, cases), in order of importance: what goals are about, then the other references."""
    for model in models:
        yield model, ("strong", "end-to-end") if images else ("strong",)
    for model in models:
        yield model, ("plain", "encoder") if model.startswith(("mae", "micro-mae")) else ("plain",)
    for model in models:
        yield model, ("fp32",)


def missing(model: str, cases: Sequence[str], results: Path) -> list[str]:
    """Cases without a row in the results."""
    lines = results.read_text().splitlines() if results.exists() else []
    found = {json.loads(line)["case"] for line in lines if line.endswith("}")}  # a last one may have been cut
    return [case for case in cases if f"{model}/{case}" not in found]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is not there yet until the time is over; the number of processes that failed or were cut short."""
    options = _options(arguments)
    end, failed = time.monotonic() + 60 * options.minutes, 0
    for model, cases in runs(options.models.split(","), options.images is not None):
        left = end - time.monotonic()
        wanted = missing(model, cases, options.results)
        if wanted and left > LEAST:
            images = ["--images", str(options.images)] if "end-to-end" in wanted else []
            failed += not _run([*STEP, "--model", model, "--cases", ",".join(wanted), *images], options.results, left)
    return failed


def _run(command: Sequence[str], results: Path, seconds: float) -> bool:
    """Whether it ended well in time; its rows are appended to the results."""
    sys.stderr.write(f"{' '.join(command[1:])}\n")
    with results.open("a") as file:
        try:
            return subprocess.run(command, stdout=file, timeout=seconds, check=False).returncode == 0
        except subprocess.TimeoutExpired:
            return False


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.gpu", description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, required=True, help="a JSON object a line is appended")
    parser.add_argument("--images", type=Path, help="a tar of JPEGs: end to end is measured too")
    parser.add_argument("--minutes", type=float, default=25.0, help="(default: %(default)s)")
    parser.add_argument("--models", default=",".join(MODELS), help="(default: %(default)s)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
