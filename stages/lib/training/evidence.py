"""What a measurement leaves behind: metrics, predictions of every image, and how far its probabilities can be relied on."""

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from stages.lib.core import files
from stages.lib.data import predictions
from stages.lib.training import calibration
from stages.lib.training.accuracy import Judged
from stages.lib.training.measure import Measured

RELIABILITY = ("head", "low", "high", "images", "confidence", "accuracy")


def write(name: str, measured: Measured) -> dict[str, Any]:
    """data/predictions/<name>.parquet, data/plots/<name>-reliability.csv and, last, data/metrics/<name>.json; gives the metrics."""
    heads, metrics = measured.tally.heads(), measured.metrics()
    index = measured.index
    path = Path(f"data/predictions/{name}.parquet")
    predictions.write(path, columns(measured, heads), index.set_name, index.split, measured.stamp)
    rows = reliability(heads, index.labels)
    write_csv(Path(f"data/plots/{name}-reliability.csv"), RELIABILITY, rows)
    with files.replace(Path(f"data/metrics/{name}.json")) as temporary:
        temporary.write_text(json.dumps(metrics, indent=1) + "\n")
    return metrics


def own(heads: dict[str, Judged]) -> Judged:
    """What timm's forward in eval mode gives: the mean of the logits where there are two heads."""
    return heads.get("fused_logits", heads["class"])


def columns(measured: Measured, heads: dict[str, Judged]) -> dict[str, pa.Array]:
    """Of the predictions, as stages/lib/data/predictions.py has them."""
    model = own(heads)
    return {
        "key": pa.array(measured.index.keys, pa.string()),
        "label": pa.array(measured.index.labels, pa.int32()),
        **{f"{head}_top1": pa.array(judged.predicted) for head, judged in heads.items()},
        "model_top1": pa.array(model.predicted),
        "model_prob": pa.array(model.probability),
        "model_nll": pa.array(model.nll, pa.float64()).cast(pa.float32()),
    }


def reliability(heads: dict[str, Judged], labels: np.ndarray) -> Iterator[tuple[object, ...]]:
    """RELIABILITY of every head's bins; shares of 0..1, empty where a bin has no image."""
    for head, judged in heads.items():
        for one in calibration.bins(judged.probability, judged.predicted == labels):
            means = ("" if value is None else f"{value:.6f}" for value in (one.confidence, one.accuracy))
            yield (head, f"{one.low:.6f}", f"{one.high:.6f}", one.images, *means)


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table for `dvc plots`."""
    with files.replace(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(header)
        table.writerows(rows)
