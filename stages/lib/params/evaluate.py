"""`evaluate`: how trained models are measured."""

from typing import Annotated, Literal

from pydantic import Field

from stages.lib.params.frozen import Frozen


class Evaluate(Frozen):
    """Each image of the split exactly once, preprocessed as the model's config.json says."""

    split: Literal["val", "test"]
    """The split that is measured; test must exist in the source."""
    batch_size: Annotated[int, Field(ge=1)]
    """Images a forward pass; declared, because matrix shapes move the last bits."""
