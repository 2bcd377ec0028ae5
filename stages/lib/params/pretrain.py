"""`pretrain`: the masked autoencoder (He et al. 2021, arXiv 2111.06377)."""

from typing import Annotated, Literal, Self

from pydantic import Field, RootModel, model_validator

from stages.lib.params.divergence import Divergence
from stages.lib.params.frozen import Frozen, Probability
from stages.lib.params.optimizer import Optimizer, Schedule
from stages.lib.params.precision import Precision
from stages.lib.params.vit import ViT

Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Decoder(Frozen):
    """The light decoder (paper: width 512, depth 8, 16 heads)."""

    width: Annotated[int, Field(ge=4, multiple_of=4)]
    depth: Annotated[int, Field(ge=1)]
    heads: Annotated[int, Field(ge=1)]


Crop = Literal["random-size", "fixed-size", "none"]
"""MAE Table 1e. random-size: a random-resized crop, mirrored or not. fixed-size: anywhere in the image with its shorter side at
image_size / 0.875 (256 for 224; the paper names no number), mirrored or not. none: the centre of that, never mirrored."""
Masking = Literal["random", "block", "grid"]
"""MAE Table 1f: which patches are hidden. random: any. block: rectangles of them (Bao et al. 2021, arXiv 2106.08254). grid: all but
one of every 2 x 2."""


class Pretrain(Frozen):
    """MAE Table 8; the only augmentation is crop and flip, but for the ablations of Table 1e."""

    seed: Seed
    epochs: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)]
    """Global, over all ranks."""
    image_size: Annotated[int, Field(ge=1)]
    order: Literal["permutation", "block"] = "permutation"
    window: Annotated[int, Field(ge=1)] = 16
    crop: Crop = "random-size"
    scale: Annotated[tuple[Probability, Probability], Field(strict=False)] = (0.2, 1.0)
    """Of a random-size crop, as ratio is: area, share of the image."""
    ratio: Annotated[tuple[float, float], Field(strict=False)] = (3 / 4, 4 / 3)
    hflip: Probability = 0.5
    color_jitter: Probability = 0.0
    """Brightness, contrast and saturation change in a random order by factors uniform in 1 - this to 1 + this; the paper, which
    does not say how much, found that it hurts (Table 1e)."""
    model: ViT
    decoder: Decoder
    mask_ratio: Annotated[float, Field(gt=0, lt=1)]
    """Share of patches hidden; floor(patches * (1 - mask_ratio)) in double precision stay visible."""
    masking: Masking = "random"
    norm_pix: bool
    """Normalise each target patch by its own mean and standard deviation (on in the headline runs, off in the ablations)."""
    precision: Precision = "fp32"
    """bf16: matrix products in bfloat16, also where validation measures the loss. The published runs used fp16 likewise."""
    compile: bool = False
    """torch.compile the blocks for the training step; on a CPU this needs a C++ compiler ($CXX, else g++)."""
    probe_images: Annotated[int, Field(ge=0)] = 0
    """The first training images whose nearest neighbours tell, whenever the run is looked at (about ten times), the class of every
    validation image: `knn_top1` of the history. Labels are read for that alone. 0: not asked."""
    optimizer: Optimizer
    schedule: Schedule
    divergence: Divergence = Divergence()

    @property
    def groups(self) -> int:
        """Parts of a batch that processes and passes must leave whole: single images."""
        return self.batch_size

    @model_validator(mode="after")
    def fits(self) -> Self:
        """Patches tile the image, and at least one stays visible."""
        if self.image_size % self.model.patch_size:
            raise ValueError(
                f"image_size {self.image_size} is not a multiple of model.patch_size {self.model.patch_size}"
            )
        if self.model.layer_scale or not self.model.class_position:
            raise ValueError(
                "model.layer_scale must be 0 and model.class_position true: a masked autoencoder has neither of DeiT III's"
            )
        if self.decoder.width % self.decoder.heads:
            raise ValueError(
                f"decoder.width {self.decoder.width} is not a multiple of decoder.heads {self.decoder.heads}"
            )
        patches = (self.image_size // self.model.patch_size) ** 2
        if int(patches * (1 - self.mask_ratio)) < 1:
            raise ValueError(f"mask_ratio {self.mask_ratio} leaves none of {patches} patches visible; lower it")
        side = self.image_size // self.model.patch_size
        if self.masking == "grid" and (side % 2 or int(patches * (1 - self.mask_ratio)) * 4 != patches):
            raise ValueError(
                f"masking: grid keeps one of every 2 x 2 patches: mask_ratio must be 0.75, not {self.mask_ratio}, and the patches "
                f"along a side even in number, not {side}"
            )
        return self


class PretrainNormPix(RootModel[bool]):
    """pretrain.norm_pix alone: what the decoder predicts."""


class PretrainSeed(RootModel[Seed]):
    """pretrain.seed alone: validation's masks follow from it."""
