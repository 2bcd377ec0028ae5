"""How fast images become batches, against the loaders people use today: one line a path.

    python -m benchmarks.loader --images <tar, folder or shards> --cores 2 [--json] [--seconds 8] [--paths mae,deit]

--images: any JPEGs, in a tar, a folder of any depth, or shards; at most 2,000 of them are used. --json: one object a line.
How it is measured, and what the columns mean: docs/performance.md.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import machine, pictures
from benchmarks.loader_row import HEADER
from benchmarks.paths import PATHS, Bench
from stages.lib.core.outcome import Refusal

BATCHES = 160
"""In an epoch: enough that no slice meets an epoch's end twice."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 0, or 2 where a person has to put something right."""
    options = _options(arguments)
    try:
        _measure(options)
    except Refusal as refusal:
        _say(str(refusal))
        return 2
    return 0


def _measure(options: argparse.Namespace) -> None:
    chosen = _chosen(options.paths)
    if options.batch < 1 or options.seconds <= 0:
        raise Refusal(f"--batch {options.batch} and --seconds {options.seconds:g} have to be above 0")
    machine.pin(options.cores)
    jpegs, broken = pictures.collect(options.images)
    described, what = machine.description(), _summary(options.images, jpegs, broken, options.batch)
    _say(f"{described}\n{what}")
    with machine.alone(), tempfile.TemporaryDirectory(prefix="tutelage-benchmark-") as name:
        folder = Path(name)
        shelved = pictures.shelve(jpegs, folder / "original", BATCHES * options.batch)
        bench = Bench(shelved, folder, options.cores, options.batch, options.seconds, what, described)
        if not options.json:
            _print(HEADER)
        for path in chosen:
            for row in PATHS[path](bench):
                _print(row.json() if options.json else row.text())


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.loader", description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=Path, required=True, help="a tar, a folder of JPEGs, or shards")
    parser.add_argument("--cores", type=int, default=2, help="cores for either side (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=8.0, help="timed, a side and path (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=128, help="images in a batch (default: %(default)s)")
    parser.add_argument("--paths", default=",".join(PATHS), help="some of: %(default)s")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    return parser.parse_args(arguments)


def _chosen(paths: str) -> list[str]:
    chosen = [path.strip() for path in paths.split(",")]
    if unknown := [path for path in chosen if path not in PATHS]:
        raise Refusal(f"--paths {paths}: {', '.join(map(repr, unknown))} is none of {', '.join(PATHS)}")
    return chosen


def _summary(source: Path, jpegs: Sequence[bytes], broken: int, batch: int) -> str:
    """What is measured on, in a sentence."""
    wanted, size = BATCHES * batch, sum(map(len, jpegs)) / len(jpegs) / 1e3
    passed = f", {broken} broken ones passed over" if broken else ""
    repeated = "" if len(jpegs) >= wanted else f"; repeated to fill epochs of {wanted:,}"
    return f"{len(jpegs):,} JPEGs of {size:.1f} kB from {source}{passed}{repeated}"


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
