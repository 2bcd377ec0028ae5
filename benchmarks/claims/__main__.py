"""Try the papers' claims at a small scale, through DVC, and write docs/claims.md.

    python -m benchmarks.claims data <cifar10.tar.gz> --folder F     the images, once
    python -m benchmarks.claims run distillation --folder F [--seeds 0,1,2]
    python -m benchmarks.claims table                                docs/claims.md from docs/claims/*.json

A run that is finished stands in docs/claims/<claim>.json and is not run again, one that was cut off goes on. Remove that file to
run a claim anew.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.claims import images, page, results
from benchmarks.claims.arena import ROOT, Arena
from benchmarks.claims.claims import CLAIMS
from benchmarks.claims.recipes import CIFAR
from stages.lib.core.outcome import Refusal


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 2 where a person has to put something right."""
    options = _options(arguments)
    try:
        options.act(options)
    except Refusal as refusal:
        sys.stderr.write(f"{refusal}\n")
        return 2
    return 0


def _data(options: argparse.Namespace) -> None:
    images.make(options.archive, options.folder / "raw")


def _run(options: argparse.Namespace) -> None:
    arena = Arena(options.folder.resolve())
    names = options.claims.split(",")
    if unknown := [name for name in names if name not in CLAIMS]:
        raise Refusal(f"there is no claim {', '.join(unknown)}; there are {', '.join(CLAIMS)}")
    claims = [CLAIMS[name] for name in names]
    arena.prepare(sorted({variant.set_name for claim in claims for variant in claim.variants} | {CIFAR}))
    for claim in claims:
        wanted = options.variants.split(",") if options.variants else [variant.name for variant in claim.variants]
        results.measure(claim, wanted, [int(seed) for seed in options.seeds.split(",")], arena)


def _table(_: argparse.Namespace) -> None:
    (results.FOLDER.parent / "claims.md").write_text(page.text())


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.claims", description=__doc__.split("\n")[0])
    actions = parser.add_subparsers(required=True)
    data = actions.add_parser("data", help="make the small image sets")
    data.add_argument("archive", type=Path, help="cifar10.tar.gz: train/<class>/*.jpg and test/<class>/*.jpg")
    data.set_defaults(act=_data)
    table = actions.add_parser("table", help="write docs/claims.md")
    table.set_defaults(act=_table)
    run = actions.add_parser("run", help="run a claim's recipes through DVC")
    run.add_argument("claims", help=f"some of {', '.join(CLAIMS)}, with commas")
    run.add_argument("--seeds", default="0,1,2", help="(default: %(default)s)")
    run.add_argument("--variants", default="", help="only these recipes of it, with commas (default: all)")
    run.set_defaults(act=_run)
    for one in (data, run):
        one.add_argument("--folder", type=Path, default=ROOT / "data/runs/claims", help="(default: data/runs/claims)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
