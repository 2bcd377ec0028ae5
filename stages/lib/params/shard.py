"""`shard`: from manifest to WebDataset tars."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer

from stages.lib.params.frozen import Frozen
from stages.lib.params.published import S3Uri


class Store(Frozen):
    """Images whose shorter side is longer than `short_side` are made smaller and encoded as JPEG; the others stay as they are."""

    short_side: Annotated[int, Field(ge=1, le=65500)]
    """Pixels; the longer side follows, rounded to the nearest pixel."""
    quality: Annotated[int, Field(ge=1, le=100)]
    """libjpeg's."""
    subsampling: Literal["4:4:4", "4:2:2", "4:2:0"]
    """Of the two colour planes: whole, half as wide, half as wide and high."""


def _store(value: Any) -> Any:
    """`original` is None; a mapping goes on to Store; anything else is refused."""
    if value == "original":
        return None
    if not isinstance(value, dict | Store):
        shown = "empty (null)" if value is None else repr(value)
        raise ValueError(
            f'{shown} is neither `original` nor a block such as {{short_side: 320, quality: 90, subsampling: "4:4:4"}}'
        )
    return value


class Shard(Frozen):
    """How images are laid out in tars."""

    images_per_shard: Annotated[int, Field(ge=1)]
    """Images in every tar but a split's last."""
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    """Seeds the interleaving of classes."""
    store: Annotated[Store | None, BeforeValidator(_store), PlainSerializer(lambda store: store or "original")] = None
    """`original`, here None: the bytes of every image as they came. Else what is made of large ones."""
    published_uri: Annotated[S3Uri | None, Field(exclude=True)] = None
    """Where `python -m stages.publish shards` has put them: training streams from there what data/shards lacks. It says where
    bytes lie, not which, so it is declared by nobody and is no part of a run's identity."""
