"""`teacher`: the RegNetY whose labels the student learns from, trained here or fetched."""

import math
from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from stages.lib.params.frozen import Frozen
from stages.lib.params.training import Training


class RegNetSizes(Frozen):
    """Overrides of timm's RegNetCfg for the named architecture (Radosavovic et al. 2020, the design space)."""

    depth: Annotated[int, Field(ge=4)]
    w0: Annotated[int, Field(ge=8, multiple_of=8)]
    wa: Annotated[float, Field(gt=0)]
    wm: Annotated[float, Field(gt=1)]
    group_size: Annotated[int, Field(ge=1)]
    stem_width: Annotated[int, Field(ge=8)]

    @property
    def widths(self) -> list[int]:
        """Channels of each block: w0 * wm ** round(log_wm((w0 + wa * block) / w0)), rounded to multiples of 8."""
        steps = [
            round(math.log((self.w0 + self.wa * block) / self.w0) / math.log(self.wm)) for block in range(self.depth)
        ]
        return [8 * round(self.w0 * self.wm**step / 8) for step in steps]

    @model_validator(mode="after")
    def four_stages(self) -> Self:
        """timm builds exactly four stages, one a width."""
        stages = sorted(set(self.widths))
        if len(stages) != 4:
            raise ValueError(
                f"these sizes make {len(stages)} stages, of widths {stages}, and a RegNet has 4; a larger wa or depth makes "
                "more, a larger wm fewer"
            )
        return self


class Fetched(Frozen):
    """Weights somebody else trained."""

    path: Annotated[str, StringConstraints(min_length=1)]
    """A local .safetensors, or a .pth holding tensors only (optionally under `model` or `state_dict`); relative paths
    start at the raw root."""
    sha256: Annotated[
        str,
        StringConstraints(pattern=r"^[0-9a-f]{8,64}$"),
        Field(description="the first 8 to 64 hex digits of the file's sha256, in lower case"),
    ]
    """Compared with the start of the file's digest. The published files carry 8 digits in their names, which is all that
    torch.hub compares too; `sha256sum` gives all 64, and 64 are better. Quote it if it is digits only."""
    licence: Annotated[str, StringConstraints(min_length=1)]


class Teacher(Training):
    """A timm RegNetY. `fetch: null` trains it with the rest of the block; otherwise only sizes and views.image_size count."""

    architecture: Annotated[
        str,
        StringConstraints(pattern=r"^regnety_\d+$"),
        Field(description="timm's name of a RegNetY, such as regnety_160"),
    ]
    """timm name; the paper's teacher is regnety_160."""
    sizes: RegNetSizes | None = None
    """null: the architecture's own."""
    fetch: Fetched | None = None
    norm_group: Annotated[int, Field(ge=2)]
    """Consecutive images that share batch statistics; divides views.batch_size. Published: one GPU's batch."""

    @model_validator(mode="after")
    def fits(self) -> Self:
        """Statistics groups are whole; a convnet has no layer-wise decay."""
        if self.views.batch_size % self.norm_group:
            raise ValueError(f"norm_group {self.norm_group} does not divide views.batch_size {self.views.batch_size}")
        if self.optimizer.layer_decay != 1.0:
            raise ValueError("optimizer.layer_decay is for transformers; leave it 1.0 here")
        return self
