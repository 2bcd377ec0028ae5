"""Sizes of a vision transformer."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from stages.lib.params.frozen import Frozen

DropPathShape = Literal["linear", "constant"]
"""Stochastic depth up to the last block. linear: rises from 0 at the first (DeiT, MAE). constant: every block's (DeiT III)."""


class ViT(Frozen):
    """Encoder sizes (DeiT, arXiv 2012.12877 Table 1; MAE, arXiv 2111.06377). MLP ratio 4, LayerNorm eps 1e-6."""

    patch_size: Annotated[int, Field(ge=1)]
    width: Annotated[int, Field(ge=4)]
    depth: Annotated[int, Field(ge=1)]
    heads: Annotated[int, Field(ge=1)]
    layer_scale: Annotated[float, Field(ge=0, le=1)] = 0.0
    """What each block's two LayerScale vectors begin with (Touvron et al. 2021, arXiv 2103.17239; DeiT III: 1e-4); 0: none."""
    class_position: bool = True
    """Whether the class token has a position embedding of its own. false: as DeiT III (timm's no_embed_class)."""

    @model_validator(mode="after")
    def divides(self) -> Self:
        """Heads share the width equally; sin-cos positions need a width that is a multiple of 4."""
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.width % 4:
            raise ValueError(f"width {self.width} is not a multiple of 4, which sin-cos positions need")
        return self
