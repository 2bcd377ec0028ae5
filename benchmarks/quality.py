"""Are the pixels right? Those a loader delivers against Pillow's own crop, antialiased bicubic resize and PIL operations.

The reference here shares the draws (they are pure functions of seed, epoch and position) and nothing else with the loader:
what the timed code puts into batches is what is compared.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from benchmarks.pictures import Pictures
from stages.lib.core.ranks import Rank
from stages.lib.data import randaugment
from stages.lib.data.batch import Batch
from stages.lib.data.batches import Stream, batches
from stages.lib.data.crop import random_resized_box
from stages.lib.data.randomness import Purpose, generator
from stages.lib.params.pretrain import Pretrain
from stages.lib.params.views import Views

CROPS = 256
"""At least this many are compared."""
SAME = 100.0
"""dB given to images that are equal: their ratio of signal to noise is infinite."""
BICUBIC = Image.Resampling.BICUBIC

Expected = Callable[[int, np.random.Generator], np.ndarray]
"""(row of the index, the view's generator) -> u8[3, size, size]."""


@dataclass(frozen=True)
class Fidelity:
    """PSNR over crops, dB."""

    mean: float
    p1: float
    """First percentile."""
    identical: float
    """Share of crops without any difference; each counts as 100 dB."""
    crops: int


def psnr(ours: np.ndarray, reference: np.ndarray) -> float:
    """dB between two u8 arrays of one shape: 10 log10(255^2 / mean squared difference); 100 where they are equal."""
    assert ours.shape == reference.shape and ours.dtype == reference.dtype == np.uint8
    error = float(np.mean((ours.astype(np.float64) - reference) ** 2))
    return min(SAME, 10 * np.log10(255**2 / error)) if error else SAME


def fidelity(pairs: Iterator[tuple[np.ndarray, np.ndarray]]) -> Fidelity:
    """Of (ours, reference) pairs of u8[3, H, W]."""
    values, same = [], 0
    for ours, reference in pairs:
        values.append(psnr(ours, reference))
        same += np.array_equal(ours, reference)
    return Fidelity(float(np.mean(values)), float(np.percentile(values, 1)), same / len(values), len(values))


def of_stream(stream: Stream, expected: Expected, cores: int, crops: int = 0) -> Fidelity:
    """A training stream's views against what Pillow makes of the same draws; crops 0: CROPS."""

    def pairs() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        steps = -(-(crops or CROPS) // stream.batch_size)
        for step, batch in enumerate(batches(stream, 0, steps, Rank(), cores, 2)):
            epoch = step // stream.steps_per_epoch
            order = stream.order(epoch)
            for pixels, position in zip(batch.images.numpy(), batch.positions.tolist(), strict=True):
                rng = generator(stream.seed, epoch, position, Purpose.AUGMENT)
                yield pixels, expected(int(order[position]), rng)

    return fidelity(pairs())


def view(pictures: Pictures, recipe: Views | Pretrain, originals: Pictures | None = None) -> Expected:
    """What a training recipe should show of a row, made by Pillow alone.

    originals: the same images before they were stored smaller; a box drawn on the stored image is then cut from them.
    """
    policy = randaugment.parse(recipe.randaugment) if isinstance(recipe, Views) else None

    def expected(row: int, rng: np.random.Generator) -> np.ndarray:
        stored = _picture(pictures, row)
        box = random_resized_box(*stored.size, recipe.scale, recipe.ratio, rng)
        image = stored if originals is None else _picture(originals, row)
        image = _cut(image, stored.size, box, recipe.image_size)
        if rng.random() < recipe.hflip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if policy:
            image = randaugment.apply(image, policy, rng)
        return _planes(image)

    return expected


def of_evaluation(source: Iterator[Batch], pictures: Pictures, size: int, short: int, crops: int = 0) -> Fidelity:
    """Evaluation's views against Pillow: shorter side resized to `short`, the centre size x size of it; crops 0: CROPS."""

    def pairs() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        seen = 0
        for batch in source:
            for pixels, row in zip(batch.images.numpy(), batch.positions.tolist(), strict=True):
                yield pixels, _planes(_centre(_picture(pictures, row), size, short))
            seen += len(batch.images)
            if seen >= (crops or CROPS):
                return

    return fidelity(pairs())


def _cut(image: Image.Image, drawn_on: tuple[int, int], box: tuple[int, int, int, int], size: int) -> Image.Image:
    """The box, (left, top, width, height) on an image of size `drawn_on`, cut out of `image` and resized to size x size."""
    left, top, width, height = box
    if image.size == drawn_on:
        return image.crop((left, top, left + width, top + height)).resize((size, size), BICUBIC)
    across, down = image.width / drawn_on[0], image.height / drawn_on[1]
    # A box between pixels: resize takes it as it is, and rounding it would be measured as a loss of the store.
    right, bottom = min(image.width, (left + width) * across), min(image.height, (top + height) * down)
    return image.resize((size, size), BICUBIC, box=(left * across, top * down, right, bottom))


def _centre(image: Image.Image, size: int, short: int) -> Image.Image:
    long = int(short * max(image.size) / min(image.size))
    image = image.resize((short, long) if image.width <= image.height else (long, short), BICUBIC)
    left, top = (round((side - size) / 2) for side in image.size)
    return image.crop((left, top, left + size, top + size))


def _picture(pictures: Pictures, row: int) -> Image.Image:
    return Image.open(io.BytesIO(pictures.jpegs[pictures.jpeg_of[row]])).convert("RGB")


def _planes(image: Image.Image) -> np.ndarray:
    return np.asarray(image).transpose(2, 0, 1)
