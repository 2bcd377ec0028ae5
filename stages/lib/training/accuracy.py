"""How good are predictions? Accuracy, likelihood and agreement of a model's heads, gathered batch by batch.

A head is a matrix of scores f[N, K] whose softmax is its probability: the class head's logits, the distillation head's,
their mean (`fused_logits`, what the released DeiT reports) and the logarithm of the mean of their softmaxes
(`fused_probs`, what the paper's section 4 says). Of N x K scores only rows of N numbers are kept.
"""

import itertools
import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.lib.core.outcome import Refusal
from stages.lib.data import chance
from stages.lib.training import calibration

TOP = 5
AGREEING = ("class", "dist", "fused_logits")
DECIMALS_PERCENT, DECIMALS_NATS = 4, 6  # a diff of metrics shows results, not the last bits


@dataclass(frozen=True)
class Judged:
    """What is kept of one head: a number an image."""

    predicted: np.ndarray
    """i32[N], the class with the highest score; the lowest index among equals."""
    probability: np.ndarray
    """f32[N], of the predicted class."""
    in_top5: np.ndarray
    """bool[N], whether fewer than 5 classes come before the label; among equals the lower index comes first."""
    nll: np.ndarray
    """f64[N], negative log-likelihood of the label in nats."""


def heads_of(class_logits: Tensor, dist_logits: Tensor | None) -> dict[str, Tensor]:
    """Scores f[N, K] of every head; `class` alone without a second. The logits' mean is what timm's eval forward gives."""
    if dist_logits is None:
        return {"class": class_logits}
    first, second = (logits.double().log_softmax(1) for logits in (class_logits, dist_logits))
    return {
        "class": class_logits,
        "dist": dist_logits,
        "fused_logits": (class_logits + dist_logits) / 2,
        "fused_probs": torch.logaddexp(first, second) - math.log(2),
    }


def judge(scores: Tensor, labels: Tensor) -> Judged:
    """Rows for f[N, K] scores and i64[N] labels; the likelihood is computed in double precision."""
    likelihood = scores.double().log_softmax(1)
    predicted = scores.argmax(1)
    own = scores.gather(1, labels[:, None])
    earlier = torch.arange(scores.shape[1], device=scores.device) < labels[:, None]
    before = ((scores > own) | ((scores == own) & earlier)).sum(1)
    return Judged(
        predicted=predicted.int().cpu().numpy(),
        probability=likelihood.gather(1, predicted[:, None])[:, 0].exp().float().cpu().numpy(),
        in_top5=(before < TOP).cpu().numpy(),
        nll=-likelihood.gather(1, labels[:, None])[:, 0].cpu().numpy(),
    )


def percent_equal(first: np.ndarray, second: np.ndarray) -> float:
    """Percent of places where two rows of classes are equal: accuracy against labels, agreement of two heads."""
    return 100 * float((first == second).mean())


def per_class(predicted: np.ndarray, labels: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """(images i64[K], rightly predicted i64[K]) of every class."""
    right = labels[predicted == labels]
    return np.bincount(labels, minlength=classes), np.bincount(right, minlength=classes)


def mean_per_class(predicted: np.ndarray, labels: np.ndarray, classes: int) -> float:
    """Mean of the classes' accuracies in percent, over the classes that have images."""
    images, right = per_class(predicted, labels, classes)
    return 100 * float((right[images > 0] / images[images > 0]).mean())


def agreement(heads: dict[str, Judged]) -> dict[str, float]:
    """Percent of images on which two heads predict the same class, right or wrong."""
    pairs = itertools.combinations([name for name in AGREEING if name in heads], 2)
    return {
        f"{a}_{b}": round(percent_equal(heads[a].predicted, heads[b].predicted), DECIMALS_PERCENT) for a, b in pairs
    }


def share(name: str, right: np.ndarray) -> dict[str, float]:
    """A share of bool[N] in percent as <name>, and its 95 % bootstrap interval over images as <name>_low and <name>_high."""
    low, high = chance.bootstrap(int(right.sum()), len(right))
    return {name: 100 * float(right.mean()), f"{name}_low": low, f"{name}_high": high}


def head_metrics(judged: Judged, labels: np.ndarray, classes: int) -> dict[str, float]:
    """top1 and top5 (only where there are more than 5 classes) with their intervals, mean_per_class and ece in percent, nll in
    nats an image."""
    right = judged.predicted == labels
    percent = {
        **share("top1", right),
        **(share("top5", judged.in_top5) if classes > TOP else {}),
        "mean_per_class": mean_per_class(judged.predicted, labels, classes),
        "ece": calibration.expected_error(judged.probability, right),
    }
    rounded = {name: round(value, DECIMALS_PERCENT) for name, value in percent.items()}
    return {**rounded, "nll": round(float(judged.nll.mean()), DECIMALS_NATS)}


class Tally:
    """Gathers a split batch by batch."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.batches: list[tuple[np.ndarray, dict[str, Judged]]] = []
        """Labels i64[B] and rows of every head, of each batch; several processes put theirs one after the other."""

    def add(self, class_logits: Tensor, dist_logits: Tensor | None, labels: Tensor) -> None:
        """A batch: logits f32[B, K] on one device, the second None where the model has one head; labels i64[B].

        Raises Refusal when logits are not finite: every number made of them would be worthless.
        """
        for name, logits in (("class", class_logits), ("distillation", dist_logits)):
            if logits is not None and not bool(torch.isfinite(logits).all()):
                raise Refusal(f"the {name} head gives values that are not finite; train the model again or restore it")
        assert class_logits.shape[1] == self.classes, f"{class_logits.shape[1]} logits for {self.classes} classes"
        heads = heads_of(class_logits, dist_logits)
        rows = {name: judge(scores, labels.to(scores.device)) for name, scores in heads.items()}
        self.batches.append((labels.cpu().numpy(), rows))

    @property
    def labels(self) -> np.ndarray:
        """i64[N] in the order added."""
        return np.concatenate([labels for labels, _ in self.batches])

    def heads(self) -> dict[str, Judged]:
        """class, and for two heads dist, fused_logits and fused_probs: rows of every image, in the order added."""
        names = self.batches[0][1]
        return {name: _joined([rows[name] for _, rows in self.batches]) for name in names}

    def metrics(self) -> dict[str, Any]:
        """{"heads": {name: numbers}, "agreement": {pair: percent}}; no agreement for a single head."""
        heads, labels = self.heads(), self.labels
        numbers = {"heads": {name: head_metrics(judged, labels, self.classes) for name, judged in heads.items()}}
        return numbers | ({"agreement": agreement(heads)} if len(heads) > 1 else {})


def _joined(parts: list[Judged]) -> Judged:
    """Rows of all batches, one after the other."""
    return Judged(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Judged)))
