"""A page to ask the trained models about an image: what every head says, where tokens look, what is painted. No DVC stage.

in    data/exported/<model>                       what is asked, loaded by timm; student unless another is named
      data/models/mae                             to paint with: exported is its encoder alone
      data/index/<set>.parquet, data/shards/<set> images to choose from, where they are here
run   python -m stages.demo_page [<model>] [--port P]    (`make demo-page`); 127.0.0.1 only, Ctrl-C ends it

Images go to this process and no further, and are not kept. It runs on the CPU, so that a GPU at work is left alone.
"""

import argparse
import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from stages.lib.core import load, loopback, outcome
from stages.lib.core.loopback import Answer, Request, said
from stages.lib.core.outcome import Refusal
from stages.lib.data.index import Index, read_index
from stages.lib.data.shards import ShardReader
from stages.lib.params.ingest import Ingest
from stages.lib.params.pretrain import Pretrain
from stages.lib.params.sets import Sets
from stages.lib.params.system import System
from stages.lib.reporting import demo_answers, demo_markup
from stages.lib.reporting.demo_answers import Answers, Painter

log = logging.getLogger(__name__)
PORT = 8152
SHOWN = 14
"""Images to choose from."""
JSON = "application/json"


@dataclass(frozen=True)
class Samples:
    """Images of the validation split."""

    names: tuple[str, ...]
    """What to call each: its class."""
    images: tuple[bytes, ...]
    """Each as the shards hold it."""
    pictures: tuple[str, ...]
    """Each small, as a data: address."""


def main() -> None:
    """Load the models and answer until it is ended. Raises Refusal where there is no model to ask."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.demo_page", description="A page to ask the trained models about an image."
    )
    parser.add_argument(
        "model", nargs="?", default="student", help="a folder of data/exported: student (default), finetuned, teacher"
    )
    parser.add_argument("--port", type=int, default=PORT, help=f"default {PORT}; 0: any that is free")
    arguments = parser.parse_args()
    torch.set_num_threads(load.load("system", System).threads or torch.get_num_threads())
    page = Page(arguments.model)
    loopback.serve(
        loopback.Server(page.respond, arguments.port, demo_answers.LARGEST_BYTES), f"Ask the {arguments.model}:"
    )


class Page:
    """The page, and what it asks for."""

    def __init__(self, model: str) -> None:
        """model: a folder of data/exported. Raises Refusal where it is not there or damaged."""
        asked = demo_answers.classifier(exported(model))
        painting, paints = painter()
        self.answers = Answers(asked, painting)
        self.upright = load.load("ingest", Ingest).exif == "apply"
        self.samples = samples_of(load.load("sets", Sets).main)
        parameters = sum(weight.numel() for weight in asked.network.parameters())
        about = [
            f"{type(asked.network).__name__} with {parameters:,} weights and {asked.network.num_classes} classes,",
            f"from data/exported/{model}, loaded by timm. It gets the middle of an image at {asked.preparation.size} x",
            f"{asked.preparation.size} pixels, as its config.json says.",
        ]
        shown = list(zip(self.samples.names, self.samples.pictures, strict=True))
        self.document = demo_markup.page(model, about, shown, paints).encode()

    def respond(self, request: Request) -> Answer:
        """Any of the four things there are. Raises Refusal for an image that cannot be read, or a ratio that is none."""
        known = (request.method, request.path)
        if known == ("GET", "/"):
            return Answer(self.document, "text/html; charset=utf-8", policy=demo_markup.POLICY)
        if known == ("GET", "/sample"):
            return self._sample(request.query.get("number", ""))
        if known == ("POST", "/answer"):
            return answered(self.answers.classes(demo_answers.opened(request.body, self.upright)))
        if known == ("POST", "/paint"):
            ratio, draw = number(request.query.get("ratio", "")), number(request.query.get("draw", "0"))
            image = demo_answers.opened(request.body, self.upright)
            return answered(self.answers.painted(image, ratio, int(draw)))
        return said(404, "There is nothing here; the page is /.")

    def _sample(self, word: str) -> Answer:
        if not (word.isascii() and word.isdigit() and len(word) < 4 and int(word) < len(self.samples.images)):
            return said(404, f"There are {len(self.samples.images)} samples, numbered from 0.")
        return Answer(self.samples.images[int(word)], loopback.BODY)


def answered(content: dict[str, object]) -> Answer:
    """As JSON."""
    return Answer(json.dumps(content).encode(), JSON)


def number(word: str) -> float:
    """A finite number a query holds. Raises Refusal."""
    try:
        value = float(word[:30])
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise Refusal(f"{word[:30]!r} is no number.")
    return value


def exported(model: str) -> Path:
    """The folder of an exported model. Raises Refusal naming those there are."""
    there = sorted(
        path.parent.name for path in Path("data/exported").glob("*/config.json") if path.parent.name != "mae"
    )
    if model in there:
        return Path("data/exported") / model
    if not there:
        raise Refusal(
            "There is no model to ask in data/exported yet. `make demo` trains and exports one in minutes; "
            f"`dvc repro export@{model}` does with this params.yaml, `dvc pull export@{model}` fetches what others made."
        )
    raise Refusal(f"There is no data/exported/{model}; there is {', '.join(there)}.")


def painter() -> tuple[Painter | None, str | None]:
    """The autoencoder, or why nothing can be painted."""
    folder = Path("data/models/mae")
    if not (folder / "config.json").is_file():
        return (
            None,
            f"There is no masked autoencoder in {folder}: `dvc repro pretrain` makes one, `dvc pull pretrain` fetches it.",
        )
    try:
        return demo_answers.painter(folder, load.load("pretrain", Pretrain).norm_pix), None
    except Refusal as refusal:
        log.warning("%s", refusal)
        return None, str(refusal)


def samples_of(set_name: str) -> Samples:
    """Validation images of as many classes as can be, the first of each; none where index or shards are not here."""
    path, folder = Path(f"data/index/{set_name}.parquet"), Path(f"data/shards/{set_name}")
    try:
        index = read_index(path, "val")
        reader = ShardReader(index, folder)
        rows = spread(index)
        images = tuple(reader.read(row) for row in rows)
        pictures = tuple(demo_answers.thumbnail(demo_answers.opened(image, upright=False)) for image in images)
        return Samples(tuple(index.classes[index.labels[row]] for row in rows), images, pictures)
    except (Refusal, OSError) as error:
        log.warning("no samples to choose from: %s", error)
        return Samples((), (), ())


def spread(index: Index) -> list[int]:
    """Rows of the first image of each class, then of the second, and so on; in the order of classes, SHOWN of them."""
    seen = np.zeros(len(index.classes), np.int64)
    turns = []
    for row, label in enumerate(index.labels.tolist()):
        turns.append((int(seen[label]), label, row))
        seen[label] += 1
    return [row for *_, row in sorted(turns)[:SHOWN]]


if __name__ == "__main__":
    outcome.run("demo-page", main)
