"""Which images does a model know best, which does it get wrong for sure, and what does it say of some others?

in    data/index/<set>.parquet            where every image lies in the shards
      data/predictions/<model>.parquet    what the model says of each
      data/models/<model>                 how it wants images prepared; nothing is computed with it
out   data/plots/<model>-images.csv       kind, place, key, actual, predicted, probability, nll of every tile
      data/samples/<model>-images.png     the tiles
      data/looks/<model>.json             side of a tile, tiles a row, how many, and the columns of <model>-attention.png
run   dvc repro -s look@<model>
"""

import csv
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from stages.lib.core import files, load, outcome, parquet
from stages.lib.core.outcome import Refusal
from stages.lib.data import some_images, tiles
from stages.lib.data.crop import Frame, evaluation
from stages.lib.data.index import Index, read_index
from stages.lib.data.published import shards_of
from stages.lib.data.sprite import sprite
from stages.lib.params.evaluate import Evaluate
from stages.lib.params.published import PublishedUri
from stages.lib.params.system import System

BEST, WORST, SAMPLE = 12, 24, 12  # tiles of each kind, where there are as many
COLUMNS, TILE = 12, 96  # tiles a row; pixels of a side, or the model's own where those are fewer
HEADER = ("kind", "place", "key", "actual", "predicted", "probability", "nll")
SCHEMA = pa.schema(
    {
        "key": pa.string(),
        "label": pa.int32(),
        "model_top1": pa.int32(),
        "model_prob": pa.float32(),
        "model_nll": pa.float32(),
    }
)


@dataclass(frozen=True)
class Told:
    """What a model said of every image of a split, in the order of the index."""

    predicted: np.ndarray
    """i32[N]."""
    probability: np.ndarray
    """f32[N], of the predicted class."""
    nll: np.ndarray
    """f32[N], of the label in nats."""


def main() -> None:
    """Choose the images, show them, and say what the model said."""
    name, set_name = sys.argv[1:3]
    cfg, system = load.load("evaluate", Evaluate), load.load("system", System)
    index = read_index(Path(f"data/index/{set_name}.parquet"), cfg.split)
    shards = shards_of(set_name, load.load_optional("shard", "published_uri", PublishedUri), system)
    told = told_by(Path(f"data/predictions/{name}.parquet"), index)
    shown = list(chosen(told, index))
    config = config_of(Path(f"data/models/{name}/config.json"))
    tile = min(TILE, config["pretrained_cfg"]["input_size"][-1])
    seen = some_images.seen(index, shards, [row for _, row in shown], frame_of(config, tile))
    tiles.save(Path(f"data/samples/{name}-images.png"), sprite(seen, COLUMNS))
    write_rows(Path(f"data/plots/{name}-images.csv"), shown, told, index)
    maps = [] if name == "teacher" else attending(config)  # nobody draws a teacher's, be it a transformer
    about = {"tile": tile, "columns": COLUMNS, "tiles": len(shown), "attention": maps}
    with files.replace(Path(f"data/looks/{name}.json")) as temporary:
        temporary.write_text(json.dumps(about, indent=1) + "\n")


def config_of(path: Path) -> dict[str, Any]:
    """A model's config.json. Raises Refusal where it is missing or damaged; `evaluate` has refused what cannot be done."""
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        frame_of(config, 1)(1, 1), attending(config), int(config["pretrained_cfg"]["input_size"][-1])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise Refusal(
            f"{path} is missing or damaged ({type(error).__name__}: {error}); `dvc checkout {path.parent}` restores it."
        ) from error
    return config


def frame_of(config: dict[str, Any], size: int) -> Callable[[int, int], Frame]:
    """(width, height) -> what the model sees of an image of that size, `size` pixels a side."""
    wanted = config["pretrained_cfg"]
    resample = Image.Resampling[wanted["interpolation"].upper()]
    return lambda width, height: evaluation(width, height, size, wanted["crop_pct"], resample)


def told_by(path: Path, index: Index) -> Told:
    """The predictions. Raises Refusal where they are missing, damaged, or not about these images."""
    if not path.is_file():
        raise Refusal(f"There is no {path}: `dvc repro evaluate@{path.stem}` makes it.")
    table = parquet.read(path, SCHEMA)
    if table["key"].to_pylist() != index.keys or not np.array_equal(np.array(table["label"]), index.labels):
        raise Refusal(
            f"{path} is not about the {index.split} images of {index.set_name}; "
            f"`dvc repro evaluate@{path.stem} look@{path.stem}` makes both anew."
        )
    return Told(*(np.array(table[column]) for column in SCHEMA.names[2:]))


def chosen(told: Told, index: Index) -> Iterator[tuple[str, int]]:
    """(kind, row) of every tile: most certain right answers, most certain wrong ones, and a sample of all."""
    right = told.predicted == index.labels
    surest = np.argsort(-told.probability.astype(np.float64), kind="stable")
    yield from (("best", row) for row in surest[right[surest]][:BEST].tolist())
    yield from (("worst", row) for row in surest[~right[surest]][:WORST].tolist())
    yield from (("sample", row) for row in some_images.sample(index.keys, SAMPLE))


def write_rows(path: Path, shown: list[tuple[str, int]], told: Told, index: Index) -> None:
    """A row a tile, in the order of the tiles."""
    with files.replace(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(HEADER)
        for place, (kind, row) in enumerate(shown):
            names = (index.classes[index.labels[row]], index.classes[told.predicted[row]])
            numbers = (f"{told.probability[row]:.6f}", f"{told.nll[row]:.6f}")
            table.writerow((kind, place, index.keys[row], *names, *numbers))


def attending(config: dict[str, Any]) -> list[str]:
    """Columns of <model>-attention.png, which `attend` draws: the image, and a map of every token before the patches."""
    if config["architecture"].startswith("regnet"):
        return []
    distilled = not isinstance(config["pretrained_cfg"]["classifier"], str)  # a head each
    return ["image", "class", *(["dist"] if distilled else [])]


if __name__ == "__main__":
    outcome.run("look", main)
