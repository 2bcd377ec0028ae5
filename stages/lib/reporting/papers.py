"""Published models as points of reference on ImageNet-1k: top-1, size and cost as their papers and repositories give them.

MACs of transformers are counted by formula: L D 3p^2 of the patch embedding, 12 n D^2 + 2 n^2 D a block of n tokens, D K of the
head; those of RegNetY by a counter of operations. What papers call GFLOPs of these models are multiply-accumulates. Images a
second are of one V100 in single precision (Touvron et al. 2021, Table 5); other papers measured otherwise and are left out.
"""

from dataclasses import dataclass

DEIT = "arXiv 2012.12877, Table 5"
DEIT3 = "arXiv 2204.07118, published table of the repository"
MAE = "arXiv 2111.06377, Table 3"


@dataclass(frozen=True)
class Published:
    """A model of a paper, trained on ImageNet-1k alone unless its name says more."""

    name: str
    family: str
    top1: float
    """Percent of the 50,000 validation images."""
    millions: float
    """Parameters, in millions."""
    gmacs: float
    """Multiply-accumulates of one image's forward pass, in thousands of millions."""
    images_per_second: float | None
    source: str


PUBLISHED = (
    Published("RegNetY-4GF", "RegNetY", 80.0, 20.6, 3.973, 1156.7, DEIT),
    Published("RegNetY-8GF", "RegNetY", 81.7, 39.2, 7.963, 591.6, DEIT),
    Published("RegNetY-16GF", "RegNetY", 82.9, 83.6, 15.912, 334.7, DEIT),
    Published("DeiT-Ti", "DeiT", 72.2, 5.717, 1.254, 2536.5, DEIT),
    Published("DeiT-S", "DeiT", 79.8, 22.051, 4.599, 940.4, DEIT),
    Published("DeiT-B", "DeiT", 81.8, 86.568, 17.564, 292.3, DEIT),
    Published("DeiT-B at 384", "DeiT", 83.1, 86.859, 55.484, 85.9, DEIT),
    Published("DeiT-Ti distilled", "DeiT distilled", 74.5, 5.911, 1.261, 2529.5, DEIT),
    Published("DeiT-S distilled", "DeiT distilled", 81.2, 22.436, 4.624, 936.2, DEIT),
    Published("DeiT-B distilled", "DeiT distilled", 83.4, 87.338, 17.657, 290.9, DEIT),
    Published("DeiT-B distilled at 384", "DeiT distilled", 84.5, 87.63, 55.591, 85.8, DEIT),
    Published("DeiT-Ti distilled, 1000 epochs", "DeiT distilled", 76.6, 5.911, 1.261, 2529.5, DEIT),
    Published("DeiT-S distilled, 1000 epochs", "DeiT distilled", 82.6, 22.436, 4.624, 936.2, DEIT),
    Published("DeiT-B distilled, 1000 epochs", "DeiT distilled", 84.2, 87.338, 17.657, 290.9, DEIT),
    Published("DeiT-B distilled at 384, 1000 epochs", "DeiT distilled", 85.2, 87.63, 55.591, 85.8, DEIT),
    Published("ViT-B/16 at 384, from JFT-300M", "ViT", 84.15, 86.859, 55.484, None, DEIT),
    Published("ViT-B, from scratch", "ViT", 82.3, 86.568, 17.564, None, "arXiv 2111.06377, Table 11"),
    Published("ViT-L, from scratch", "ViT", 82.6, 304.327, 61.555, None, "arXiv 2111.06377, Table 11"),
    Published("ViT-H, from scratch", "ViT", 83.1, 632.046, 167.295, None, "arXiv 2111.06377, Table 11"),
    Published("ViT-B, MAE", "MAE", 83.6, 86.568, 17.564, None, MAE),
    Published("ViT-L, MAE", "MAE", 85.9, 304.327, 61.555, None, MAE),
    Published("ViT-H, MAE", "MAE", 86.9, 632.046, 167.295, None, MAE),
    Published("DeiT III-S", "DeiT III", 81.4, 22.059, 4.599, None, DEIT3),
    Published("DeiT III-M", "DeiT III", 83.0, 38.85, 7.991, None, DEIT3),
    Published("DeiT III-B", "DeiT III", 83.8, 86.585, 17.564, None, DEIT3),
    Published("DeiT III-L", "DeiT III", 84.9, 304.375, 61.555, None, DEIT3),
    Published("DeiT III-H", "DeiT III", 85.2, 632.126, 167.295, None, DEIT3),
    Published("DeiT III-S at 384", "DeiT III", 83.4, 22.205, 15.49, None, DEIT3),
    Published("DeiT III-B at 384", "DeiT III", 85.0, 86.877, 55.484, None, DEIT3),
    Published("DeiT III-L at 384", "DeiT III", 85.8, 304.764, 191.066, None, DEIT3),
)

DISAGREEMENT = {  # Touvron et al. 2021, Table 4: percent of ImageNet's images on which two disagree
    "teacher_class": 11.2,
    "teacher_dist": 10.0,
    "teacher_fused_logits": 10.2,
    "teacher_label": 17.1,
    "class_dist": 5.0,
    "class_fused_logits": 3.3,
    "dist_fused_logits": 1.9,
    "class_label": 17.0,
    "dist_label": 16.9,
    "fused_logits_label": 16.6,
}
"""DeiT-B distilled beside its convnet."""
COSINES = (0.06, 0.93)
"""Touvron et al. 2021, section 4: class and distillation token at the input and after the last layer of DeiT-B."""
TRANSFERRED = {  # Touvron et al. 2021, Table 7, percent: DeiT-B distilled, and the same at 384 pixels
    "cifar10": (99.1, 99.2),
    "cifar100": (91.3, 91.4),
    "flowers102": (98.8, 98.9),
    "stanford-cars": (92.9, 93.9),
    "inaturalist-2018": (73.7, 80.1),
    "inaturalist-2019": (78.4, 83.0),
}
