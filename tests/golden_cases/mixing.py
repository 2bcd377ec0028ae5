"""08: mixup and cutmix, images and targets, drawn as numpy's legacy generator drew for the reference."""

from typing import Any

import numpy as np
import torch

from stages.lib.data import mixing
from tests.golden_cases.reference import Case

LAMBDA, IMAGES, SUM, TARGETS = 1e-15, 1e-6, 1e-4, {"f64": 1e-10, "f32": 1e-6}


class Legacy:
    """numpy.random.seed(seed) behind the names of a Generator; remembers the last Beta."""

    def __init__(self, seed: int) -> None:
        self.state, self.lam = np.random.RandomState(seed), 1.0

    def random(self) -> float:
        """Uniform in [0, 1)."""
        return float(self.state.random_sample())

    def beta(self, a: float, b: float) -> float:
        """Beta(a, b)."""
        self.lam = float(self.state.beta(a, b))
        return self.lam

    def integers(self, low: int, high: int) -> int:
        """Uniform in low..high-1."""
        return int(self.state.randint(low, high))


def mixed(case: Case) -> None:
    """Every row: the draw, the box, the images, the targets."""
    configs = {config["label"]: config for config in case.data["configs"]}
    for label, config in configs.items():
        case.given(case.formula.images(f"mixup.{label}.images", config["shape"]), f"images_{label}")
        labels = case.formula.labels(f"mixup.{label}.labels", config["shape"][0], config["classes"])
        case.given(labels, f"labels_{label}")
    for row in case.data["rows"]:
        config = configs[row["config"]]
        _draw(case, row, config)
        _use(case, row, config)


def _draw(case: Case, row: dict[str, Any], config: dict[str, Any]) -> None:
    """What is drawn, in which order, and how many numbers that takes."""
    style: mixing.BoxStyle = "timm-0.3.2" if case.data["timm"].startswith("0.") else "timm-1.0"
    legacy, (height, width), name = Legacy(row["seed"]), config["shape"][2:], row["config"]
    alphas = (config["mixup_alpha"], config["cutmix_alpha"], config["prob"], config["switch_prob"])
    mix = mixing.draw(legacy, *alphas, height, width, style, config["cutmix_minmax"])
    box = list(mix.box) if mix.box else None
    case.same(f"{name}, boxes", [box, mix.box is not None], [row["box_yl_yh_xl_xh"], row["use_cutmix"]], row["key"])
    case.compare(f"{name}, lambda", legacy.lam, row["lam_drawn"], LAMBDA, f"{row['key']} drawn")
    case.compare(f"{name}, lambda", mix.lam, row["lam_used"], LAMBDA, f"{row['key']} used")
    case.compare(f"{name}, lambda", legacy.random(), row["next_np_random_rand"], LAMBDA, f"{row['key']} next draw")


def _use(case: Case, row: dict[str, Any], config: dict[str, Any]) -> None:
    """What becomes of the images and labels, with lambda and box handed in."""
    key, name, box, arrays = row["key"], row["config"], row["box_yl_yh_xl_xh"], case.arrays
    mix = mixing.Mix(row["lam_used"], tuple(box) if box else None)
    images, labels = arrays.tensor(f"images_{name}"), arrays.tensor(f"labels_{name}")
    ours, exact = mixing.mix_images(images, mix), mixing.mix_images(images.double(), mix)
    case.compare(f"{name}, images", ours, arrays[f"out_{key}"], IMAGES, key)
    case.compare(f"{name}, images, sum", ours.double().sum(), row["out_sum_f64"], SUM, key)
    case.compare(f"{name}, images, f32 from f64", (exact - ours).abs().max(), row["f32_vs_f64_max_abs"], IMAGES, key)
    settings = (labels, config["classes"], config["smoothing"], mix)
    targets = mixing.mix_targets(*settings)
    case.compare(f"{name}, targets f32", targets, arrays[f"target_{key}"], TARGETS["f32"], key)
    targets = mixing.mix_targets(*settings, dtype=torch.float64)
    case.compare(f"{name}, targets f64", targets, arrays[f"target_f64_{key}"], TARGETS["f64"], key)
