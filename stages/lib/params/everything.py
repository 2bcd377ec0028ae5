"""The whole params.yaml, and what must hold between its blocks."""

from typing import Self

from pydantic import model_validator

from stages.lib.params.data import Data
from stages.lib.params.evaluate import Evaluate
from stages.lib.params.export import Export
from stages.lib.params.finetune import Finetune
from stages.lib.params.frozen import Frozen
from stages.lib.params.ingest import Ingest
from stages.lib.params.pretrain import Pretrain
from stages.lib.params.probe import Probe
from stages.lib.params.report import Report
from stages.lib.params.sets import Sets
from stages.lib.params.shard import Shard
from stages.lib.params.sources import Sources
from stages.lib.params.system import System
from stages.lib.params.teacher import Teacher
from stages.lib.params.train import Train
from stages.lib.params.transfer import Transfer
from stages.lib.params.versions import Versions


class Everything(Frozen):
    """One field per block, in the order of the pipeline."""

    sources: Sources
    sets: Sets
    ingest: Ingest
    shard: Shard
    data: Data
    teacher: Teacher
    pretrain: Pretrain
    probe: Probe
    train: Train
    finetune: Finetune
    evaluate: Evaluate
    transfer: Transfer
    export: Export
    report: Report
    system: System
    versions: Versions

    @model_validator(mode="after")
    def sets_exist(self) -> Self:
        """Every set has a source, and every source a part."""
        sources, used = set(self.sources.root), [self.sets.main, *self.sets.transfer, *self.sets.robust]
        for name in used:
            if name not in sources:
                raise ValueError(f"sets names {name!r}, which is not in sources: {', '.join(sorted(sources))}")
        if len(set(used)) < len(used):
            raise ValueError(f"sets names a source twice: {', '.join(used)}")
        idle = sources - set(used)
        if idle:
            raise ValueError(f"sources has {', '.join(sorted(idle))}, which no set uses; name it in sets or remove it")
        return self

    @model_validator(mode="after")
    def real_is_main(self) -> Self:
        """ReaL labels are of images that student and fine-tuned model are evaluated on."""
        if self.sets.real not in ([], [self.sets.main]):
            raise ValueError(f"sets.real is {self.sets.real}; allowed are [] and [{self.sets.main}], the main set")
        return self

    @model_validator(mode="after")
    def encoder_fits_student(self) -> Self:
        """MAE weights need equal patch, width, depth and heads (checked before anything is spent)."""
        mine, theirs = self.train.model.model_dump(), self.pretrain.model.model_dump()
        if self.train.init == "mae" and mine != theirs:
            apart = ", ".join(f"{key} is {mine[key]} and {theirs[key]}" for key in mine if mine[key] != theirs[key])
            raise ValueError(f"train.init: mae needs train.model equal to pretrain.model, but {apart}")
        return self

    @model_validator(mode="after")
    def probe_fits_encoder(self) -> Self:
        """At the largest share of hidden patches one is still seen."""
        patches = (self.pretrain.image_size // self.pretrain.model.patch_size) ** 2
        if int(patches * (1 - self.probe.mask_percents[-1] / 100)) < 1:
            raise ValueError(
                f"probe.mask_percents: {self.probe.mask_percents[-1]} % leaves none of {patches} patches visible; lower it"
            )
        return self

    @model_validator(mode="after")
    def teacher_sees_its_size(self) -> Self:
        """A transformer has a position for each of its own patches: whoever asks it shows images of its size."""
        if self.teacher.architecture != "vit":
            return self
        finetune = self.train.distill if self.finetune.distill == "as-train" else self.finetune.distill
        size, blocks = self.teacher.views.image_size, {"train": self.train, "finetune": self.finetune}
        for block, kind in (("train", self.train.distill), ("finetune", finetune)):
            seen = blocks[block].views.image_size
            if kind != "none" and seen != size:
                raise ValueError(
                    f"teacher.architecture: vit answers about images of teacher.views.image_size {size} alone, and "
                    f"{block}.views.image_size is {seen}: make them equal, or set {block}.distill to none"
                )
        return self

    @model_validator(mode="after")
    def finetune_fits_student(self) -> Self:
        """The student's patches tile the larger image; its heads and teacher allow the loss."""
        patch = self.train.model.patch_size
        for block, size in (("finetune", self.finetune.views.image_size), ("transfer", self.transfer.views.image_size)):
            if size % patch:
                raise ValueError(f"{block}.views.image_size {size} is not a multiple of train.model.patch_size {patch}")
        if self.finetune.distill in ("soft", "hard") and self.train.distill == "none":
            raise ValueError(
                f"finetune.distill: {self.finetune.distill} needs a student with a distillation token, and "
                "train.distill: none makes one without; set finetune.distill to as-train or none"
            )
        return self
