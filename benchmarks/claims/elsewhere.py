"""Claims that no recipe of claims.py tries: measured by another benchmark, or not here at all."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Elsewhere:
    """A row of docs/claims.md."""

    claim: str
    source: str
    here: str
    """What is known here; `not measured` and why."""
    command: str
    """What measures it."""


NO_GPU = "not measured: no GPU in the session that made this page"
ELSEWHERE = (
    Elsewhere(
        "masking makes the encoder's step 3 to 4 times as fast",
        "MAE section 3, Table 2 (2.8 to 4.1 times in wall clock against mask tokens in the encoder)",
        "ViT-B, 75 % masked, visible patches against all: 3.72 times (2.80 to 3.79 over turns) on one CPU core; "
        "docs/performance.md has the row `mae-base/encoder`",
        "`python -m benchmarks.step --model mae-base --cases encoder`",
    ),
    Elsewhere(
        "transfer to CIFAR-10 (DeiT-B 99.1, distilled 99.1) beats CIFAR-10 from scratch (97.5, 98.5)",
        "DeiT Table 7 and section 5",
        "not measured: no time for a student of another set; CIFAR-10 itself is what the students here are trained on",
        "`dvc repro transfer@cifar10` with a `params.yaml` that names another main set",
    ),
    Elsewhere(
        "CIFAR-10 from scratch: 96 % within ten minutes on one H200 (a goal of this project, no paper's)",
        "none",
        NO_GPU,
        "`cp presets/cifar10.yaml params.yaml; dvc repro`",
    ),
    Elsewhere(
        "Tiny-ImageNet, 100 classes, on a GPU",
        "none",
        f"{NO_GPU}; on two CPU cores 11.60 % (student) in docs/results.md",
        "`cp presets/tiny-imagenet.yaml params.yaml; dvc repro`",
    ),
    Elsewhere(
        "ImageNet: 83.4 (DeiT-B distilled), 83.6 (MAE ViT-B)",
        "DeiT Table 3, MAE Table 3",
        f"{NO_GPU}, and no ImageNet",
        "`cp presets/imagenet-deit-base.yaml params.yaml; dvc repro`",
    ),
)
