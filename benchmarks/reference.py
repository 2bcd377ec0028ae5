"""The other side: PyTorch's DataLoader with worker processes, Pillow, and torchvision's or timm's transforms.

As the published recipes load ImageNet, on the versions installed here. It is given what helps it: the bytes come from
mapped files in the page cache instead of a folder of a million files, its workers persist, and its epochs follow each
other without the pause a DataLoader makes between two.
"""

import io
import itertools
import mmap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import timm.data.auto_augment as timm_ops
import webdataset
from PIL import Image
from timm.data import create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision import transforms

from benchmarks.pictures import Pictures
from stages.lib.data.normalise import IMAGENET_MEAN, IMAGENET_STD

Transform = Callable[[Image.Image], Tensor]
"""RGB image -> f32[3, size, size], normalised."""
BICUBIC = transforms.InterpolationMode.BICUBIC


def mae(size: int, scale: tuple[float, float]) -> Transform:
    """As MAE's main_pretrain.py."""
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(size, scale, interpolation=BICUBIC),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )


def deit(size: int, randaugment: str, erase: float) -> Transform:
    """As DeiT's datasets.py: crop of 0.08 to 1, flip, RandAugment, erasing with noise."""
    _mend_posterize()
    transform: Transform = create_transform(
        size,
        is_training=True,
        auto_augment=randaugment,
        interpolation="bicubic",
        re_prob=erase,
        re_mode="pixel",
        re_count=1,
    )
    return transform


def evaluation(size: int, crop_pct: float) -> Transform:
    """As DeiT's and MAE's evaluation: shorter side resized, centre cropped."""
    return transforms.Compose(
        [
            transforms.Resize(int(size / crop_pct), interpolation=BICUBIC),
            transforms.CenterCrop(size),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )


class Reference:
    """A DataLoader under the clock (benchmarks.interleaved.Side); starts its workers at once: make it before any thread."""

    extra = 0.0

    def __init__(
        self, pictures: Pictures, transform: Transform, batch: int, cores: int, shuffled: bool = True, repeats: int = 1
    ) -> None:
        """batch: images; cores: worker processes; shuffled: else in order; repeats: views of an image, each decoded anew."""
        self._loader: DataLoader[Any] = DataLoader(
            Files(pictures, transform),
            batch_size=batch,
            sampler=Endless(len(pictures.index), batch, shuffled, repeats),
            num_workers=cores,
            persistent_workers=True,
            drop_last=True,
        )
        self._batches = iter(self._loader)
        self.ahead = 2 * cores  # DataLoader's prefetch_factor
        self._last: Any = None

    def draw(self) -> int:
        """Take f32[B, 3, size, size] and labels."""
        self._last = None
        self._last = next(self._batches)
        return len(self._last[0])

    def close(self) -> None:
        """End the workers."""
        self._last = None
        del self._batches
        self._loader._iterator = None


class Files(Dataset[Any]):
    """The usual image dataset: bytes, Pillow, transform."""

    def __init__(self, pictures: Pictures, transform: Transform) -> None:
        index = pictures.index
        self.maps = [_mapped(path) for path in pictures.shards]
        self.places = list(
            zip(index.shard_of.tolist(), index.offset.tolist(), index.size.tolist(), index.labels.tolist(), strict=True)
        )
        self.transform = transform

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        """(f32[3, size, size], label)"""
        shard, offset, size, label = self.places[row]
        image = Image.open(io.BytesIO(self.maps[shard][offset : offset + size])).convert("RGB")
        return self.transform(image), label


class Endless(Sampler[int]):
    """Epoch after epoch without an end, each of whole batches."""

    def __init__(self, rows: int, batch: int, shuffled: bool, repeats: int) -> None:
        self.rows, self.batch, self.shuffled, self.repeats = rows, batch, shuffled, repeats

    def __iter__(self) -> Iterator[int]:
        """Rows. With repeats r, as DeiT's sampler: each r times in a row, and the epoch keeps its length."""
        length = self.rows // self.batch * self.batch
        for epoch in itertools.count():
            order = np.random.default_rng(epoch).permutation(self.rows) if self.shuffled else np.arange(self.rows)
            yield from np.repeat(order, self.repeats)[:length].tolist()


class WebDataset:
    """webdataset's reader under the clock: a batch is `chunk` samples, bytes of every member, no decoding, in order."""

    extra = 0.0
    ahead = 0

    def __init__(self, pictures: Pictures, chunk: int) -> None:
        self.chunk = chunk
        data = webdataset.WebDataset([str(path) for path in pictures.shards], shardshuffle=False, empty_check=False)
        self._samples = iter(data.repeat())

    def draw(self) -> int:
        """Read the next samples."""
        for sample in itertools.islice(self._samples, self.chunk):
            assert sample["jpg"]
        return self.chunk

    def close(self) -> None:
        """Nothing runs."""


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _mend_posterize() -> None:
    """timm 1.0.31 asks Pillow 13 for 0 bits at high levels, which raises and would end the epoch; a bit is kept instead."""

    def at_least_one(image: Image.Image, bits: int, **_: Any) -> Image.Image:
        return timm_ops.posterize(image, max(1, bits))

    for name in timm_ops.NAME_TO_OP:
        if name.startswith("Posterize"):
            timm_ops.NAME_TO_OP[name] = at_least_one
