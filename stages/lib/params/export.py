"""`export`: what is proven before a model leaves the house."""

from typing import Annotated

from pydantic import Field

from stages.lib.params.frozen import Frozen


class Export(Frozen):
    """Parity of the exported folder, loaded by timm alone, with the evaluated predictions."""

    parity_images: Annotated[int, Field(ge=1)]
    """Images compared, from the start of the evaluated split; at most all of them."""
    parity_tolerance: Annotated[float, Field(gt=0, lt=0.1)]
    """Largest allowed difference of a probability."""
