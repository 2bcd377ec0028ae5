"""`shard`: from manifest to WebDataset tars."""

from typing import Annotated

from pydantic import Field

from stages.lib.params.frozen import Frozen
from stages.lib.params.published import S3Uri


class Shard(Frozen):
    """How images are laid out in tars."""

    images_per_shard: Annotated[int, Field(ge=1)]
    """Images in every tar but a split's last."""
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    """Seeds the interleaving of classes."""
    published_uri: Annotated[S3Uri | None, Field(exclude=True)] = None
    """Where `python -m stages.publish shards` has put them: training streams from there what data/shards lacks. It says where
    bytes lie, not which, so it is declared by nobody and is no part of a run's identity."""
