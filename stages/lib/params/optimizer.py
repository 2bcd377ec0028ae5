"""Optimizer and learning-rate schedule."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from stages.lib.params.frozen import Frozen

Beta = Annotated[float, Field(ge=0, lt=1)]


class Optimizer(Frozen):
    """AdamW, SGD or LAMB; biases and 1-D tensors are never decayed."""

    name: Literal["adamw", "sgd", "lamb"]
    """lamb: AdamW's step, made as long as the weight it changes (You et al. 2019, arXiv 1904.00962). DeiT III's clips at a global
    norm of 1 as well, by default and unsaid: set clip_norm to 1.0."""
    lr: Annotated[float, Field(gt=0)]
    """Learning rate for `lr_per` images; the peak is lr * batch_size / lr_per."""
    lr_per: Annotated[int, Field(ge=0)]
    """Images the rate is given for (MAE 256, DeiT 512); 0: the rate is absolute."""
    weight_decay: Annotated[float, Field(ge=0)]
    betas: Annotated[tuple[Beta, Beta], Field(strict=False)] = (0.9, 0.999)
    """AdamW's and LAMB's; for sgd the first is the (Nesterov) momentum."""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Rate of block b is lr * layer_decay ** (depth + 1 - id), MAE's util/lr_decay; 1.0: none."""
    decay_tokens: Literal["dist", "none", "all"]
    """Which learned tokens are decayed. dist: the distillation token alone, as DeiT was published (timm 1.x decays none);
    all: every token, as MAE pretraining."""
    clip_norm: Annotated[float, Field(ge=0)] = 0.0
    """Global gradient norm limit; 0: none."""


class Schedule(Frozen):
    """Warm-up and cosine."""

    kind: Literal["mae-step", "deit-epoch"]
    """mae-step: every step, linear from 0, cosine counted from the end of warm-up (MAE util/lr_sched). deit-epoch: once an
    epoch and one epoch late, cosine counted from epoch 0, as DeiT's main.py with timm 0.3.2 did."""
    warmup_epochs: Annotated[float, Field(ge=0)]
    min_lr: Annotated[float, Field(ge=0)]
    """Absolute: never scaled with the batch. If above the peak the cosine rises, as in DeiT's transfer runs."""
    warmup_lr: Annotated[float, Field(ge=0)] = 0.0
    """Where deit-epoch's warm-up starts (1e-6 in DeiT); mae-step starts at 0."""

    @model_validator(mode="after")
    def whole_epochs(self) -> Self:
        """The per-epoch schedule counts whole epochs, and only it has a warm-up rate."""
        if self.kind == "deit-epoch" and self.warmup_epochs != int(self.warmup_epochs):
            raise ValueError(f"warmup_epochs {self.warmup_epochs} must be whole for kind deit-epoch")
        if self.kind == "mae-step" and self.warmup_lr:
            raise ValueError("warmup_lr is for kind deit-epoch; mae-step starts at 0")
        return self
