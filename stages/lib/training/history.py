"""history.csv: one row an epoch, only numbers that are equal for every run of the recipe on one machine."""

import csv
from pathlib import Path

from stages.lib.core import files

FIRST, LAST = ["epoch", "loss", "lr"], ["val_loss", "val_top1"]


def write(path: Path, rows: list[dict[str, float]]) -> None:
    """Write rows with columns epoch, loss, lr, others by name, val_loss, val_top1; an epoch without a value has an empty cell."""
    names = {name for row in rows for name in row}
    columns = FIRST + sorted(names - set(FIRST + LAST)) + [name for name in LAST if name in names]
    with files.replace(path) as temporary, temporary.open("w", newline="") as file:
        table = csv.DictWriter(file, columns, lineterminator="\n")
        table.writeheader()
        for row in rows:
            table.writerow({name: value if name == "epoch" else f"{value:.9g}" for name, value in row.items()})
