"""`teacher`: whose labels the student learns from: a RegNetY, trained here or fetched, or a transformer trained here."""

import math
import re
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from stages.lib.params.credentials import without
from stages.lib.params.frozen import Frozen
from stages.lib.params.training import Training
from stages.lib.params.vit import DropPathShape, ViT

HUB_NAME = re.compile(r"timm/(?P<architecture>[a-z0-9_]+)\.(?P<tag>[a-z0-9_]+)")
"""timm's name of published weights, such as timm/regnety_160.deit_in1k."""
REMOTE = re.compile(r"(https://[^/\s]+/\S+|s3://[^/\s]+/\S+)")


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


class Teacher(Training):
    """A timm RegNetY, or a DeiT without distillation token (DeiT Table 2 compares both as teachers).

    `source: train` trains it with the rest of the block; otherwise only sizes, crop_pct and views.image_size count.
    """

    architecture: Annotated[
        str,
        StringConstraints(pattern=r"^(regnety_\d+|vit)$"),
        Field(description="timm's name of a RegNetY, such as regnety_160, or vit for the transformer of teacher.model"),
    ]
    """timm name; the paper's teacher is regnety_160. vit: the transformer of `model`, saved under timm's name for it."""
    sizes: RegNetSizes | None = None
    """Of a RegNetY; null: the architecture's own."""
    model: ViT | None = None
    """Of a transformer, as train.model; null for a RegNetY."""
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Stochastic depth of a transformer's last block (DeiT 0.1); a RegNetY has none."""
    drop_path_shape: DropPathShape = "linear"
    source: Annotated[str, StringConstraints(min_length=1)]
    """train, or where somebody else's weights are: a .safetensors or .pth file (relative paths start at the raw root), s3://,
    https://, or timm's name on its hub (timm/regnety_160.deit_in1k). Preprocessing is what the source's own config says: timm's
    for a name on its hub, the config.json beside a local model.safetensors; else crop_pct and ImageNet's mean and deviation."""
    sha256: (
        Annotated[
            str,
            StringConstraints(pattern=r"^[0-9a-f]{8,64}$"),
            Field(description="the first 8 to 64 hex digits of the file's sha256, in lower case"),
        ]
        | None
    ) = None
    """Needed unless trained here; of a name on timm's hub, its model.safetensors. Compared with the start of the file's
    digest. The published files carry 8 digits in their names, which is all that torch.hub compares too; `sha256sum` gives
    all 64, and 64 are better. Quote it if it is digits only."""
    licence: Annotated[str, StringConstraints(min_length=1)] | None = None
    """Of somebody else's weights, needed with them; it goes into the cards of every model that learns from them."""
    classes: Literal["same", "by-name"] = "same"
    """by-name: of weights that name their classes, take the head's rows by those names, in the order of our set, and leave out
    the others. same: their classes must be ours, in our order."""
    norm_group: Annotated[int, Field(ge=2)] | None = None
    """Consecutive images that share batch statistics; divides views.batch_size. Published: one GPU's batch. Null for a
    transformer, which has no batch statistics; a RegNetY needs it."""

    @field_validator("source")
    @classmethod
    def known(cls, value: str) -> str:
        """Four kinds of place, told apart by how they begin; no password among them."""
        without(value)
        if value.startswith("timm/") and not HUB_NAME.fullmatch(value):
            raise ValueError(
                f"{value!r} is no name on timm's hub such as timm/regnety_160.deit_in1k; a local file is ./{value}"
            )
        if "://" in value and not REMOTE.fullmatch(value):
            raise ValueError(
                f"{value!r} is neither https://host/file nor s3://bucket/key, the only remote places; a local file is a path"
            )
        return value

    @property
    def groups(self) -> int:
        """As for any classifier; groups of batch statistics stay whole as well."""
        return self.views.batch_size // math.lcm(self.norm_group or 1, self.views.mix_group if self.views.mixes else 1)

    @model_validator(mode="after")
    def named(self) -> Self:
        """What was not made here is named by its content and its licence, and is what the block says it is."""
        if self.source == "train":
            return self
        if self.sha256 is None:
            raise ValueError(
                f"source {self.source} needs sha256: it is used only if it is the very file that was meant"
            )
        if self.licence is None:
            raise ValueError(f"source {self.source} needs licence: the cards of the models that learn from it say it")
        hub = HUB_NAME.fullmatch(self.source)
        if hub and (hub["architecture"] != self.architecture or self.sizes):
            raise ValueError(
                f"source {self.source} is a {hub['architecture']} with its own sizes; set architecture to that and sizes to null"
            )
        return self

    @model_validator(mode="after")
    def a_regnet(self) -> Self:
        """Statistics groups are whole; a convnet has no transformer's sizes, stochastic depth or layer-wise decay."""
        if self.architecture == "vit":
            return self
        if self.model is not None:
            raise ValueError(f"model is for architecture: vit; {self.architecture} takes sizes: set model to null")
        if self.norm_group is None:
            raise ValueError(
                f"norm_group is missing; {self.architecture} needs a whole number of at least 2: how many consecutive images share "
                "batch statistics"
            )
        if self.drop_path:
            raise ValueError(f"drop_path {self.drop_path} is for architecture: vit; leave it 0 for {self.architecture}")
        if self.views.batch_size % self.norm_group:
            raise ValueError(f"norm_group {self.norm_group} does not divide views.batch_size {self.views.batch_size}")
        if self.optimizer.layer_decay != 1.0:
            raise ValueError("optimizer.layer_decay is for transformers; leave it 1.0 here")
        return self

    @model_validator(mode="after")
    def a_transformer(self) -> Self:
        """It has sizes of its own, is trained here, and has no batch statistics to group; patches tile the image."""
        if self.architecture != "vit":
            return self
        if self.model is None:
            raise ValueError(
                "architecture: vit needs model: a block with patch_size, width, depth and heads, as train.model"
            )
        if self.source != "train":
            raise ValueError(
                f"architecture: vit needs source: train, not {self.source}; weights from elsewhere are taken for a RegNetY alone"
            )
        if self.sizes is not None:
            raise ValueError("sizes are a RegNetY's; with architecture: vit set them to null and write model")
        if self.norm_group is not None:
            raise ValueError(
                f"norm_group {self.norm_group} groups batch statistics, which a transformer has none of; with architecture: vit "
                "set it to null"
            )
        if self.views.image_size % self.model.patch_size:
            raise ValueError(
                f"views.image_size {self.views.image_size} is not a multiple of model.patch_size {self.model.patch_size}"
            )
        return self
