"""`transfer`: the trained model on another set (DeiT Table 7)."""

from typing import Annotated, Literal

from pydantic import Field

from stages.lib.params.training import Training
from stages.lib.params.vit import DropPathShape


class Transfer(Training):
    """Plain fine-tuning with a fresh head on the class token's logits and on the distillation token's, averaged."""

    model: Literal["student", "finetuned"]
    """Folder under data/models to start from."""
    drop_path: Annotated[float, Field(ge=0, lt=1)]
    drop_path_shape: DropPathShape = "linear"
    head_std: Annotated[float, Field(gt=0)]
