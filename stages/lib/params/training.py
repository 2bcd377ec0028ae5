"""What every block that trains a classifier says: what it sees, how long, how fast, and which weights are kept."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from stages.lib.params.divergence import Divergence
from stages.lib.params.frozen import Frozen, Probability
from stages.lib.params.optimizer import Optimizer, Schedule
from stages.lib.params.precision import Precision
from stages.lib.params.views import Views


class Training(Frozen):
    """A classifier's course of training; teacher, train, finetune and transfer add what is theirs."""

    label_smoothing: Probability
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Per step (DeiT 0.99996); 0: no EMA."""
    select: Literal["last", "ema", "best_val"] = "last"
    """Which weights become the model; DeiT kept an EMA and published the last. best_val: those with the highest top-1 on the
    validation split among the (about ten) times a run looks at it; such a model's accuracy on that split is flattered."""
    crop_pct: Annotated[float, Field(gt=0, le=1)] = 0.875
    """Share of the resized image's side that evaluation's centre crop keeps; goes into the model's config.json (DeiT 0.875)."""
    precision: Precision = "fp32"
    """bf16: products and convolutions of the training step and of validation in bfloat16. The published runs used fp16 likewise."""
    compile: bool = False
    """torch.compile the network's blocks for the training step; on a CPU this needs a C++ compiler ($CXX, else g++)."""
    views: Views
    optimizer: Optimizer
    schedule: Schedule
    divergence: Divergence = Divergence()

    @property
    def groups(self) -> int:
        """Parts of a batch that processes and passes must leave whole: mixing groups, or single images."""
        return self.views.batch_size // (self.views.mix_group if self.views.mixes else 1)

    @model_validator(mode="after")
    def selectable(self) -> Self:
        """EMA exists if selected."""
        if self.select == "ema" and not self.ema_decay:
            raise ValueError("select: ema needs ema_decay above 0")
        return self
