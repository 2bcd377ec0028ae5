"""`finetune`: the student at a higher resolution (DeiT section 5, FixEfficientNet's setting)."""

from typing import Literal

from stages.lib.params.distillation import Distillation, Kind


class Finetune(Distillation):
    """Position embeddings are resampled (bicubic, no antialiasing) to views.image_size; the teacher runs at that size."""

    distill: Kind | Literal["as-train"]
    """as-train: what train.distill says, with this block's alpha and tau. none on a student with two heads trains their
    averaged logits, which is what the released code does."""
    mode: Literal["eval", "train"]
    """eval: no stochastic depth, as DeiT was published; train: with it, as DeiT III."""
