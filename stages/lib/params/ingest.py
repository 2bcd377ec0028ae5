"""`ingest`: from files to one manifest row per image."""

from typing import Annotated, Literal

from pydantic import Field

from stages.lib.params.frozen import Frozen


class Ingest(Frozen):
    """How raw images become rows."""

    val_fraction: Annotated[float, Field(gt=0, lt=1)]
    """Share of each class that becomes the validation split, where the source has none; chosen by hash of the content."""
    max_bad: Annotated[int, Field(ge=0)]
    """Images that may fail to decode before the run fails; each is listed with its reason either way."""
    exif: Literal["ignore", "apply"]
    """ignore: pixels as stored, as torchvision, timm and every published recipe do. apply: rotate by the EXIF tag."""
