"""Which network a teacher is: a RegNetY, or a DeiT without distillation token, by the published initialisation of either."""

from typing import TYPE_CHECKING, Any

from torch import nn

from stages.lib.models import architecture, deit, teacher

if TYPE_CHECKING:
    from stages.lib.params.teacher import Teacher


def create(cfg: "Teacher", classes: int) -> nn.Module:
    """Untrained, from torch's global generator: `torch.manual_seed` first."""
    if cfg.model is None:
        return teacher.create(cfg.architecture, cfg.sizes, classes)
    return deit.create(cfg.model, cfg.views.image_size, classes, False, cfg.drop_path, cfg.drop_path_shape)


def named(cfg: "Teacher") -> tuple[str, dict[str, Any]]:
    """(timm name, model_args), from which timm alone builds it."""
    if cfg.model is None:
        return cfg.architecture, teacher.model_args(cfg.sizes)
    return architecture.classifier(cfg.model, cfg.views.image_size, distilled=False)
