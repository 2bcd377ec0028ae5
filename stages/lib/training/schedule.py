"""Learning rates over time: warm-up, then a cosine, as MAE and DeiT each published them."""

import math

from stages.lib.params.optimizer import Schedule


def mae_lr(epoch: float, peak: float, min_lr: float, warmup_epochs: float, epochs: float) -> float:
    """Rate at a point in time, in epochs and fractions (MAE util/lr_sched; recipes 2.3).

    Linear from 0, then a cosine to min_lr counted from the end of warm-up.
    """
    if epoch < warmup_epochs:
        return peak * epoch / warmup_epochs
    return min_lr + (peak - min_lr) * 0.5 * (
        1.0 + math.cos(math.pi * (epoch - warmup_epochs) / (epochs - warmup_epochs))
    )


def deit_value(t: int, peak: float, min_lr: float, warmup_lr: float, warmup_epochs: int, epochs: int) -> float:
    """Rate that timm's cosine scheduler sets at step(t).

    Linear from warmup_lr; the cosine's phase counts from epoch 0, warm-up included, so the peak is never quite reached.
    """
    if t < warmup_epochs:
        return warmup_lr + t * (peak - warmup_lr) / warmup_epochs
    if t >= epochs:
        return min_lr
    return min_lr + 0.5 * (peak - min_lr) * (1.0 + math.cos(math.pi * t / epochs))


def deit_lr(epoch: int, peak: float, min_lr: float, warmup_lr: float, warmup_epochs: int, epochs: int) -> float:
    """Rate while `epoch` trains in DeiT's loop, which calls step(epoch) only after it: everything comes one epoch late.

    Epochs 0 and 1 both run at the warm-up's start (recipes 3.2). A published run that was resumed skips one value; ours
    does not, since a resumed run must equal an undisturbed one.
    """
    return deit_value(max(epoch - 1, 0), peak, min_lr, warmup_lr, warmup_epochs, epochs)


def learning_rate(cfg: Schedule, peak: float, step: int, steps_per_epoch: int, epochs: int) -> float:
    """Rate of optimizer step `step`, counted from 0; a group's own is this times its `lr_scale`."""
    if cfg.kind == "mae-step":
        return mae_lr(step / steps_per_epoch, peak, cfg.min_lr, cfg.warmup_epochs, epochs)
    return deit_lr(step // steps_per_epoch, peak, cfg.min_lr, cfg.warmup_lr, int(cfg.warmup_epochs), epochs)
