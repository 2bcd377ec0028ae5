"""What distillation and fine-tuning share: the loss and its teacher."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from stages.lib.params.frozen import Probability
from stages.lib.params.training import Training
from stages.lib.params.vit import DropPathShape

Kind = Literal["none", "soft", "hard"]
"""none: labels only. soft: KL at temperature tau (eq. 2). hard: cross-entropy with the teacher's argmax (eq. 3)."""


class Distillation(Training):
    """(1 - alpha) * base(class head, labels) + alpha * distillation(distillation head, teacher); DeiT section 4.

    A student with one head learns from both with that (train.distillation_token)."""

    alpha: Probability
    """Weight of the teacher's term (hard: 0.5; the paper's soft: 0.1)."""
    tau: Annotated[float, Field(gt=0)]
    """Temperature of soft distillation (paper: 3.0; hard ignores it)."""
    soft_divisor: Literal["elements", "batch"]
    """elements: divide the KL by batch x classes, as the released losses.py does. batch: by batch, as eq. 2 says; classes
    times larger."""
    loss: Literal["ce", "bce"]
    """Base loss: cross-entropy, or binary cross-entropy on targets > 0 (DeiT III)."""
    drop_path: Annotated[float, Field(ge=0, lt=1)]
    """Stochastic depth of the last block."""
    drop_path_shape: DropPathShape = "linear"

    @model_validator(mode="after")
    def agrees(self) -> Self:
        """A loss and targets the recipes rule out together."""
        if self.loss == "bce" and self.label_smoothing:
            raise ValueError(
                "loss bce needs label_smoothing 0: targets above 0 become 1, smoothing makes every class positive"
            )
        return self
