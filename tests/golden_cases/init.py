"""10: fresh weights have the published distributions. Statistical: seeds and generators differ."""

import math
from typing import Any

import torch

from tests.golden_cases import built
from tests.golden_cases.reference import Case

SIGMAS = 6.0  # of the difference of two samples; 400 tensors with 3 statistics each stay far inside
UNIFORM_PEAK = 1.75  # largest over standard deviation: 1.732 for a uniform distribution, above 2.4 for normal samples
FLOOR = 1e-6  # constants and fixed tables: equal but for the last digits of float32


def statistics(case: Case) -> None:
    """Mean, standard deviation and bounds of every parameter, in units of what sampling allows (tolerance 1)."""
    for model_name, theirs in case.data.items():
        shapes = {name: one["shape"] for name, one in theirs.items()}
        torch.manual_seed(0)
        model = built.mae_of(shapes) if "mask_token" in shapes else built.student_of(shapes)
        ours = model.state_dict()
        case.same(f"{model_name} names", list(ours), list(theirs))
        for name, one in theirs.items():
            for kind, share in _shares(ours[name], one).items():
                case.compare(f"{model_name}, share of the allowed", share, 0.0, 1.0, f"{name} {kind}")


def _shares(value: torch.Tensor, theirs: dict[str, Any]) -> dict[str, float]:
    """Each statistic's difference over the largest one that sampling explains."""
    count, std = value.numel(), theirs["std"]
    ours = value.detach().double()
    peak, other = float(ours.abs().max()), max(abs(theirs["min"]), abs(theirs["max"]))
    uniform = std > 0 and other / std < UNIFORM_PEAK
    share = 20.0 / count + 1e-3 if uniform else 0.45 if count >= 1000 else 0.7  # the largest of few normals varies much
    bound = other * share if std > 0 else 0.0
    return {
        "mean": abs(float(ours.mean()) - theirs["mean"]) / (SIGMAS * std * math.sqrt(2.0 / count) + FLOOR),
        "std": abs(float(ours.std(correction=0)) - std) / (SIGMAS * std / math.sqrt(count) + FLOOR),
        "bounds": abs(peak - other) / (bound + FLOOR),
    }
