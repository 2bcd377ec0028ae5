"""`shard`: from manifest to WebDataset tars."""

from typing import Annotated

from pydantic import Field

from stages.lib.params.frozen import Frozen


class Shard(Frozen):
    """How images are laid out in tars."""

    images_per_shard: Annotated[int, Field(ge=1)]
    """Images in every tar but a split's last."""
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    """Seeds the interleaving of classes."""
