"""The models whose steps are measured, by name, and what each is to reach."""

from dataclasses import dataclass

from stages.lib.params.pretrain import Decoder
from stages.lib.params.vit import ViT

LIGHT = Decoder(width=512, depth=8, heads=16)
MICRO = ViT(patch_size=4, width=192, depth=6, heads=3)


@dataclass(frozen=True)
class Goals:
    """None: nothing is wanted. Ratios on a CPU; the rest on one H200 with data already there, beside the strong reference."""

    plain: float | None = None
    """Least ratio to the plain step on a CPU."""
    equal: float | None = 1.8
    """Least ratio to the plain step on a CPU, both in single precision."""
    mfu: float | None = None
    images_per_second: float | None = None


@dataclass(frozen=True)
class Sizes:
    """A model and its batch."""

    vit: ViT
    image_size: int
    batch: int
    classes: int = 1000
    decoder: Decoder | None = None
    """A masked autoencoder's."""
    goals: Goals = Goals()

    @property
    def mask_ratio(self) -> float:
        """Of a masked autoencoder."""
        return 0.75


MODELS: dict[str, Sizes] = {
    "deit-tiny": Sizes(ViT(patch_size=16, width=192, depth=12, heads=3), 224, 16, goals=Goals(plain=3.2)),
    "deit-small": Sizes(ViT(patch_size=16, width=384, depth=12, heads=6), 224, 16, goals=Goals(mfu=0.35)),
    "deit-base": Sizes(ViT(patch_size=16, width=768, depth=12, heads=12), 224, 8, goals=Goals(mfu=0.45)),
    "micro-deit": Sizes(MICRO, 32, 128, classes=100, goals=Goals(plain=3.0)),
    "mae-base": Sizes(
        ViT(patch_size=16, width=768, depth=12, heads=12), 224, 8, decoder=LIGHT, goals=Goals(plain=3.2, mfu=0.45)
    ),
    "mae-large": Sizes(
        ViT(patch_size=16, width=1024, depth=24, heads=16), 224, 8, decoder=LIGHT, goals=Goals(mfu=0.50)
    ),
    "mae-huge": Sizes(ViT(patch_size=14, width=1280, depth=32, heads=16), 224, 4, decoder=LIGHT),
    "micro-mae": Sizes(MICRO, 32, 256, decoder=Decoder(width=96, depth=2, heads=3), goals=Goals(plain=3.0)),
}
TEACHER = "regnety-160"
"""Labels images: forward only."""
TEACHER_SIZE, TEACHER_CLASSES, TEACHER_BATCH = 224, 1000, 8
TEACHER_IMAGES_PER_SECOND = 7000.0
ON_GPU = {
    "deit-tiny": 1024,
    "deit-small": 1024,
    "deit-base": 512,
    "micro-deit": 1024,
    "mae-base": 512,
    "mae-large": 256,
    "mae-huge": 128,
    "micro-mae": 2048,
    TEACHER: 256,
}
"""Images in a batch that fill a GPU; the sizes above are for CPUs."""
