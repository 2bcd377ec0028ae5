"""What runs in a fork (tests/forks.py): a stage that meets an image which is not finite, at a step of one's choice."""

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np

from stages.lib.data.batches import Stream
from stages.lib.training import loop


def run(stage: str, set_name: str, step: int, times: int = 1000) -> None:
    """`python -m stages.<stage> <set>`: the loss of `step` (from 1) is NaN, `times` times; its first keys go to expected.txt."""
    forward, before = loop._step, [0]

    def poisoned(trained: Any, batch: Any, *arguments: Any, **named: Any) -> Any:
        if trained.step + 1 == step and before[0] < times:
            before[0] += 1
            compute = trained.compute

            def spoiled(part: Any) -> Any:
                losses = compute(part)
                return {**losses, "loss": losses["loss"] * float("nan")}

            spoiled.parameters = compute.parameters  # type: ignore[attr-defined]
            trained.compute = spoiled
            try:
                return forward(trained, batch, *arguments, **named)
            finally:
                trained.compute = compute
        return forward(trained, batch, *arguments, **named)

    loop._step = poisoned
    keys = Stream.keys

    def noting(stream: Stream, epoch: int, positions: Any) -> list[str]:
        images = stream.order(epoch)[np.asarray(positions)]
        rows = stream.index
        Path("expected.txt").write_text("\n".join(_keys(rows.path, rows.split)[image] for image in images))
        return keys(stream, epoch, positions)

    Stream.keys = noting  # type: ignore[method-assign]
    sys.argv = [f"stages.{stage}", set_name]
    module = importlib.import_module(f"stages.{stage}")
    from stages.lib.core import outcome

    outcome.run(stage, module.main)


def _keys(path: Path, split: str) -> list[str]:
    """Of a split, in the order of the file, read by another library's means."""
    import pandas as pd

    table = pd.read_parquet(path)
    return list(table[table["split"] == split]["key"])
