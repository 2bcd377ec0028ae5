"""`probe`: what the pretrained encoder knows before anything is fine-tuned (He et al. 2021, section 5 and Table 10)."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from stages.lib.params.frozen import Frozen, Probability
from stages.lib.params.optimizer import Schedule
from stages.lib.params.precision import Precision


class Neighbours(Frozen):
    """k nearest neighbours by cosine, weighted by exp(cosine / temperature) (Caron et al. 2021: 20, 0.07)."""

    k: Annotated[int, Field(ge=1)]
    """Training images that vote on an image."""
    temperature: Annotated[float, Field(gt=0)]
    """The lower, the more the nearest of them count."""


class Linear(Frozen):
    """A linear classifier on the frozen encoder's class token behind a batch norm without scale and shift, trained by LARS."""

    epochs: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)]
    """Global, over all ranks."""
    norm_group: Annotated[int, Field(ge=2)]
    """Images whose statistics the batch norm uses together; divides the batch. Published: the batch of one process, 512."""
    scale: Annotated[tuple[Probability, Probability], Field(strict=False)] = (0.08, 1.0)
    """Area of a crop, share of the image; the box is drawn once and cut off at the image's sides (MAE util/crop.py)."""
    ratio: Annotated[tuple[float, float], Field(strict=False)] = (3 / 4, 4 / 3)
    """Aspect (width / height) of a crop, log-uniform."""
    hflip: Probability = 0.5
    lr: Annotated[float, Field(gt=0)]
    """Learning rate for `lr_per` images; the peak is lr * batch_size / lr_per."""
    lr_per: Annotated[int, Field(ge=0)]
    """Images the rate is given for (MAE 256); 0: the rate is absolute."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Of the weights; the bias is never decayed."""
    trust: Annotated[float, Field(gt=0)] = 0.001
    """LARS: a step of the weights is this share of their own length, times the rate."""
    schedule: Schedule

    @property
    def groups(self) -> int:
        """Parts of a batch that processes and passes must leave whole."""
        return self.batch_size // self.norm_group

    @property
    def peak_lr(self) -> float:
        """Learning rate at the end of warm-up."""
        return self.lr * self.batch_size / self.lr_per if self.lr_per else self.lr

    @model_validator(mode="after")
    def fits(self) -> Self:
        """Groups are whole; ranges are ranges."""
        if self.batch_size % self.norm_group:
            raise ValueError(f"norm_group {self.norm_group} does not divide batch_size {self.batch_size}")
        for name in ("scale", "ratio"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} [{low}, {high}] is not an increasing range above 0")
        return self


class Probe(Frozen):
    """Nearest neighbours, a linear classifier and reconstructions of one split."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    """Of order, crops and the classifier's first weights; masks are those of `pretrain.seed`."""
    split: Literal["val", "test"]
    """The split that is measured; test must exist in the source."""
    batch_size: Annotated[int, Field(ge=1)]
    """Images a forward pass where nothing is trained; declared, because matrix shapes move the last bits."""
    precision: Precision = "fp32"
    """Of the encoder and the decoder."""
    crop_pct: Annotated[float, Field(gt=0, le=1)] = 0.875
    """Share of the resized shorter side that both readouts see of an image they are asked about; reconstructions see all of it."""
    knn: Neighbours
    linear: Linear
    mask_percents: Annotated[tuple[int, int, int], Field(strict=False)]
    """Three shares of hidden patches in percent, rising: the loss at each, and a picture (MAE Figure 4 shows 75, 85, 95)."""

    @field_validator("mask_percents")
    @classmethod
    def rising(cls, value: tuple[int, int, int]) -> tuple[int, int, int]:
        """Each names a file."""
        if not 0 < value[0] < value[1] < value[2] < 100:
            raise ValueError(f"{list(value)} are not three rising percentages between 1 and 99")
        return value
