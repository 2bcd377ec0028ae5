"""`transfer`: the trained model on another set (DeiT Table 7)."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from stages.lib.params.frozen import Frozen, Probability
from stages.lib.params.optimizer import Optimizer, Schedule
from stages.lib.params.views import Views


class Transfer(Frozen):
    """Plain fine-tuning with a fresh head on the class token's logits and on the distillation token's, averaged."""

    model: Literal["student", "finetuned"]
    """Folder under data/models to start from."""
    label_smoothing: Probability
    drop_path: Annotated[float, Field(ge=0, lt=1)]
    head_std: Annotated[float, Field(gt=0)]
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    select: Literal["last", "ema"] = "last"
    crop_pct: Annotated[float, Field(gt=0, le=1)] = 0.875
    """Share of the resized image's side that evaluation's centre crop keeps; goes into the model's config.json (DeiT 0.875)."""
    views: Views
    optimizer: Optimizer
    schedule: Schedule

    @model_validator(mode="after")
    def agrees(self) -> Self:
        """EMA exists if selected."""
        if self.select == "ema" and not self.ema_decay:
            raise ValueError("select: ema needs ema_decay above 0")
        return self
