"""Check this code against a folder of reference numbers: `python -m tests.golden <folder>`.

Prints one line a case (largest difference, tolerance, pass or FAIL) and exits with 1 on any failure; a second argument
keeps to the files whose name starts so. Everything but the formulas is read from the folder: sizes, names, constants,
seeds. The functions called are those the stages call. Not compared, since they say nothing about this code:
precision.json and the `what_if_float64` entries.
"""

import hashlib
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from tests.golden_cases import deit, init, mae, mixing, positions, recipe, trajectories
from tests.golden_cases.reference import Case, Reference, Row, Table

BOTH = (".json", ".npz")


@dataclass(frozen=True)
class Kind:
    """Files of one kind and what checks them."""

    stem: str
    """Regular expression of the whole stem."""
    parts: tuple[str, ...]
    check: Callable[[Case], None]
    example: str = ""
    """A stem to name as missing where a folder has none; empty: `stem` itself."""


KINDS = (
    Kind(r"01_mae_(?!keys$)\w+", BOTH, mae.forward_and_losses, "01_mae_a"),
    Kind("01_mae_keys", (".json",), mae.keys),
    Kind("02_pos_embed", BOTH, positions.tables),
    Kind("03_lr_groups", (".json",), recipe.groups),
    Kind("03_lr_schedule", (".json",), recipe.mae_rates),
    Kind("03_pos_interp", BOTH, positions.resampling),
    Kind("03_finetune_forward", BOTH, deit.finetuned),
    Kind("04_distill", BOTH, deit.losses),
    Kind(r"05_deit_(?!keys_)\w+", BOTH, deit.distilled, "05_deit_a"),
    Kind("05_deit_keys_official", (".json",), deit.keys),
    Kind(r"05_deit_keys_timm\d+", (".json",), deit.keys, "05_deit_keys_timm1031"),
    Kind("06_rasampler", BOTH, recipe.sampler),
    Kind("07_deit_lr_timm032", (".json",), recipe.deit_rates),
    Kind(r"07_deit_lr_timm(?!032$)\d+", (".json",), recipe.deit_rates, "07_deit_lr_timm1031"),
    Kind("08_mixup_timm032", BOTH, mixing.mixed),
    Kind(r"08_mixup_timm(?!032$)\d+", BOTH, mixing.mixed, "08_mixup_timm1031"),
    Kind("09_traj_deit", BOTH, trajectories.student),
    Kind("09_traj_mae", BOTH, trajectories.autoencoder),
    Kind("10_init_stats", (".json",), init.statistics),
)
READ = {"constants.json", "manifest.json"}
DESCRIBING = {"README.md", "formula.py", "precision.json"}  # hold no number of ours to compare


def check(folder: Path, only: str = "") -> Table:
    """Compare everything a golden folder holds; `only`: the cases whose stem starts so. Never raises on bad content."""
    torch.set_num_threads(1)
    reference, table = Reference(folder), Table()
    present = {path.name for path in folder.iterdir() if path.is_file()} if folder.is_dir() else set()
    if "constants.json" not in present:
        table.fail("constants.json", "missing: no formula without it")
        return table
    known = set(READ | DESCRIBING)
    for kind in KINDS:
        stems = sorted({Path(name).stem for name in present if re.fullmatch(kind.stem, Path(name).stem)})
        for stem in stems or [kind.example or kind.stem]:
            files = {stem + part for part in kind.parts}
            known |= files
            if stem.startswith(only):
                _run(kind, Case(reference, stem, table), sorted(files - present))
    _leftovers(reference, table, present - known, present, only)
    return table


def _run(kind: Kind, case: Case, missing: list[str]) -> None:
    if missing:
        case.table.fail(case.stem, f"missing: {', '.join(missing)}")
        return
    try:
        kind.check(case)
    except Exception as error:  # one broken case must not hide the others
        case.table.fail(f"{case.stem} stopped", f"{type(error).__name__}: {error}")


def _leftovers(reference: Reference, table: Table, extra: set[str], present: set[str], only: str) -> None:
    """Files and arrays nobody compared, and files the manifest promises."""
    promised = reference.json("manifest")["files"] if "manifest.json" in present else {}
    for name in sorted(set(promised) - present):
        if name.startswith(only):
            table.fail(name, "missing: the manifest lists it")
    changed = [
        name for name in sorted(set(promised) & present) if _sha(reference.folder / name) != promised[name]["sha256"]
    ]
    if changed:
        table.note(f"not as the manifest's sha256 says: {', '.join(changed)}")
    if extra and not only:
        table.note(f"files not checked: {', '.join(sorted(extra))}")
    for stem, arrays in reference.opened.items():
        if arrays.unread:
            table.note(f"{stem}.npz: arrays not checked: {', '.join(arrays.unread)}")


def _sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def lines(table: Table) -> list[str]:
    """The table as text, its notes and a verdict below."""
    width = max(len(name) for name in table.rows)
    head = f"{'case':{width}}  {'difference':>10}  {'tolerance':>9}  result"
    body = [
        f"{name:{width}}  {row.difference:10.2e}  {row.tolerance:9.1e}  {_verdict(row)}"
        for name, row in table.rows.items()
    ]
    failed = sum(not row.passed for row in table.rows.values())
    compared = sum(row.compared for row in table.rows.values())
    total = f"{len(table.rows)} cases, {compared} numbers compared, {failed} failed"
    return [head, *body, "", *(f"note: {text}" for text in table.notes), total]


def _verdict(row: Row) -> str:
    return "pass" if row.passed else f"FAIL {row.worst or 'nothing compared'}"


def main(arguments: list[str]) -> int:
    """Exit code: 0 all passed, 1 a failure, 2 a wrong call."""
    if len(arguments) not in (1, 2):
        print("usage: python -m tests.golden <folder of reference numbers> [start of a file's name]", file=sys.stderr)  # noqa: T201
        return 2
    start = time.monotonic()
    table = check(Path(arguments[0]), *arguments[1:])
    if not table.rows:
        print(f"nothing in {arguments[0]} starts with {arguments[1]}", file=sys.stderr)  # noqa: T201
        return 2
    print("\n".join([*lines(table), f"{time.monotonic() - start:.0f} s"]))  # noqa: T201
    return 0 if all(row.passed for row in table.rows.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
