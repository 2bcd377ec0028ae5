"""DeiT's objective: labels for the class head, a teacher for the distillation head or the same (Touvron et al. 2021, sec. 4)."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from stages.lib.data.pixels import classifier_pixels
from stages.lib.models import teaching
from stages.lib.models.deit import heads, is_distilled
from stages.lib.objectives.classify import binary_cross_entropy, soft_cross_entropy, targets_of

if TYPE_CHECKING:
    from stages.lib.data.answers import Answers
    from stages.lib.data.batch import Batch
    from stages.lib.params.distillation import Distillation
    from stages.lib.params.precision import Precision

Kind = Literal["none", "soft", "hard"]
Divisor = Literal["elements", "batch"]


def soft_distillation(student: Tensor, teacher: Tensor, tau: float, divisor: Divisor) -> Tensor:
    """f[B,C] logits -> tau^2 * KL(teacher || student), both softened by tau, summed and divided (eq. 2).

    divisor "elements": by B * C, as the released code; "batch": by B, as the text, C times larger.
    """
    wanted, given = (functional.log_softmax(logits / tau, dim=-1) for logits in (teacher, student))
    divergence = (wanted.exp() * (wanted - given)).sum()
    return divergence * tau**2 / (student.numel() if divisor == "elements" else len(student))


def hard_distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """f[B,C] logits -> cross-entropy with the teacher's decision, neither smoothed nor mixed (eq. 3)."""
    return functional.cross_entropy(student, teacher.argmax(-1))


def total(base: Tensor, distillation: Tensor, alpha: float) -> Tensor:
    """(1 - alpha) * base + alpha * distillation."""
    return (1 - alpha) * base + alpha * distillation


class Distill(nn.Module):
    """Base loss on the labels, and the teacher's part where `kind` is not none: of the distillation head, or of the class head too.

    The class head learns from both where the student has no other, and only if `token` is off (DeiT Table 3, first rows).

    What the teacher says comes with the batch (`answered`: with every batch), or the teacher is asked, in its own number format.
    It is then in eval mode, without gradient, and sees exactly the student's pixels: erased and mixed. It is no submodule:
    parameters, state dict and train() know nothing of it, but it moves with the objective.
    Kind none with two heads: the mean of their logits learns the labels, as DeiT fine-tuned in eval mode; with `fuse`
    off the class head alone, as DeiT trained. Raises ValueError where a kind lacks its teacher or its head.
    """

    def __init__(
        self,
        student: VisionTransformer,
        teacher: nn.Module | None,
        kind: Kind,
        *,
        classes: int,
        smoothing: float,
        loss: Literal["ce", "bce"] = "ce",
        alpha: float = 0.5,
        tau: float = 1.0,
        divisor: Divisor = "elements",
        fuse: bool = True,
        token: bool = True,
        answered: bool = False,
        teacher_precision: "Precision" = "fp32",
    ) -> None:
        super().__init__()
        if kind != "none" and teacher is None and not answered:
            raise ValueError(f"distill: {kind} needs a teacher, or its answers")
        if kind != "none" and token and not is_distilled(student):
            raise ValueError(f"distill: {kind} needs a student with a distillation token")
        self.student, self.kind, self.fuse = student, kind, fuse
        self.teacher: tuple[nn.Module, ...] = () if teacher is None else (teacher.eval(),)  # hidden from torch
        self.teacher_precision = teacher_precision
        self.alpha, self.tau, self.divisor = alpha, tau, divisor
        self.base = {"ce": soft_cross_entropy, "bce": binary_cross_entropy}[loss]
        self.smoothing, self.classes = smoothing, classes

    def forward(self, batch: "Batch") -> dict[str, Tensor]:
        """{"loss", "base", "distillation"}; stochastic depth only while the student is in train mode."""
        pixels = classifier_pixels(batch)
        class_logits, dist_logits = heads(self.student, pixels, batch.keep if self.student.training else None)
        targets = targets_of(batch, self.classes, self.smoothing)
        if self.kind == "none":
            fused = class_logits if dist_logits is None or not self.fuse else (class_logits + dist_logits) / 2
            base = self.base(fused, targets)
            return {"loss": base, "base": base.detach(), "distillation": torch.zeros_like(base)}
        base = self.base(class_logits, targets)
        taught = class_logits if dist_logits is None else dist_logits
        if batch.answers is not None:
            distillation = self.as_answered(taught, batch.answers)
        else:
            distillation = self.distillation(taught, pixels)
        return {
            "loss": total(base, distillation, self.alpha),
            "base": base.detach(),
            "distillation": distillation.detach(),
        }

    def distillation(self, logits: Tensor, pixels: Tensor) -> Tensor:
        """What the taught head's logits f[B,C] cost against the teacher's of the same pixels."""
        wanted = teaching.ask(self.teacher[0], pixels, self.teacher_precision)
        if self.kind == "soft":
            return soft_distillation(logits, wanted, self.tau, self.divisor)
        return hard_distillation(logits, wanted)

    def as_answered(self, logits: Tensor, answers: "Answers") -> Tensor:
        """The same cost against what the teacher said of these pixels when it was asked before."""
        if self.kind == "soft":
            return soft_distillation(logits, answers.spread(self.classes), self.tau, self.divisor)
        return functional.cross_entropy(logits, answers.hard)

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> Self:
        """What .to(), .double() and the like do: the teacher follows."""
        for teacher in self.teacher:
            teacher._apply(fn, *args, **kwargs)
        return super()._apply(fn, *args, **kwargs)


def recipe(
    student: VisionTransformer,
    teacher: nn.Module | None,
    kind: Kind,
    cfg: "Distillation",
    classes: int,
    *,
    token: bool = True,
    answered: bool = False,
    teacher_precision: "Precision" = "fp32",
) -> Distill:
    """The objective a block describes; `kind` beside it, since fine-tuning may take it from `train`. token: as Distill has it."""
    return Distill(
        student,
        teacher,
        kind,
        classes=classes,
        smoothing=cfg.label_smoothing,
        loss=cfg.loss,
        alpha=cfg.alpha,
        tau=cfg.tau,
        divisor=cfg.soft_divisor,
        token=token,
        answered=answered,
        teacher_precision=teacher_precision,
    )
