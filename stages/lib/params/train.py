"""`train`: the DeiT student and how it is distilled (Touvron et al. 2021, arXiv 2012.12877)."""

from typing import Annotated, Literal, Self

from pydantic import Field, RootModel, model_validator

from stages.lib.params.distillation import Distillation, Kind
from stages.lib.params.labelling import Labelling, Labels, Normalisation, TeacherFolder
from stages.lib.params.vit import ViT


class Train(Distillation):
    """One recipe for every size (Table 9)."""

    distill: Kind
    """none makes a student without a distillation token."""
    distillation_token: bool = True
    """false: one token and one head, which learns from labels and teacher: (1 - alpha) * base + alpha * distillation, of the
    same logits (DeiT Table 3: "usual" distillation of eq. 2 with soft, and hard distillation without the token)."""
    model: ViT
    init: Literal["scratch", "mae"]
    """mae: patch embedding, blocks, norm and class token come from data/models/mae."""
    teacher: TeacherFolder
    """Folder under data/models; none only without distillation, and then distill does not wait for the teacher."""
    teacher_normalisation: Normalisation
    labels: Labels
    labelling: Labelling
    head_std: Annotated[float, Field(gt=0)]
    """Standard deviation of fresh heads: 0.02 in DeiT, 2e-5 in MAE's fine-tuning."""

    @property
    def two_tokens(self) -> bool:
        """Whether the student has a distillation token and its head."""
        return self.distill != "none" and self.distillation_token

    @model_validator(mode="after")
    def fits(self) -> Self:
        """Patches tile the image; a teacher where one is needed."""
        if self.views.image_size % self.model.patch_size:
            raise ValueError(
                f"views.image_size {self.views.image_size} is not a multiple of model.patch_size {self.model.patch_size}"
            )
        if self.distill != "none" and self.teacher == "none":
            raise ValueError(f"distill: {self.distill} needs teacher: teacher")
        if self.two_tokens and not self.model.class_position:
            raise ValueError(
                f"distill: {self.distill} needs model.class_position: true, since timm's model with a distillation token "
                "gives every token a position; DeiT III was trained with distill: none (distillation_token: false is another way)"
            )
        if self.init == "mae" and (self.model.layer_scale or not self.model.class_position):
            raise ValueError(
                "init: mae needs model.layer_scale: 0 and model.class_position: true: a masked autoencoder's blocks were trained "
                "without LayerScale, which at 1e-4 would all but switch them off; set init: scratch for DeiT III's model"
            )
        return self

    @model_validator(mode="after")
    def answerable(self) -> Self:
        """Stored labels have a teacher to come from, and hold what the student is taught."""
        if self.labels == "live":
            return self
        if self.teacher == "none":
            raise ValueError("labels: stored needs teacher: teacher to ask; without a teacher set labels to live")
        if self.distill == "soft" and not self.labelling.top_k:
            raise ValueError(
                "distill: soft with labels: stored needs labelling.top_k of at least 1 (all classes are exact, 10 take 44 bytes "
                "a view), and 0 stores the teacher's decisions alone; raise top_k, or set labels to live"
            )
        return self


class TrainDistill(RootModel[Kind]):
    """train.distill alone: all that fine-tuning needs to know of the block."""
