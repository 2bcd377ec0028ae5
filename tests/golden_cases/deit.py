"""03_finetune_forward, 04 and 05: the transformer with heads, and the distillation losses."""

from typing import Any

import torch
from torch import Tensor, nn

from stages.lib.data.mixing import Mix, mix_targets
from stages.lib.models import deit
from stages.lib.objectives import classify, distill
from stages.lib.training.optimizer import Tokens, decayed
from tests.golden_cases import built
from tests.golden_cases.reference import EXACT, Case

FORWARD = {"f64": 1e-10, "f32": 1e-5}
LOSS = {"f64": 1e-10, "f32": 2e-6}
TARGETS = 1e-6
UNMIXED = Mix(1.0, None)
SMOOTHING = 0.1  # the README's, where a config names none


def finetuned(case: Case) -> None:
    """The plain transformer, class token or averaged patches, with label smoothing."""
    config = case.data["config"]
    case.given(case.formula.images("ft.images", _shape(config)), "images")
    case.given(case.formula.labels("ft.labels", config["batch"], config["num_classes"]), "labels")
    for pooling, shapes in case.data["shapes"].items():
        for dtype in built.DTYPES:
            if pooling == "global_pool":
                model = built.averaging(config, case.formula, built.DTYPES[dtype])
            else:
                model = built.student(config, case.formula, built.DTYPES[dtype], distilled=False)
            state = {name: list(value.shape) for name, value in model.state_dict().items()}
            case.same("names and shapes", state, shapes, pooling)
            _finetuned(case, model, pooling, dtype)


def _finetuned(case: Case, model: Any, pooling: str, dtype: str) -> None:
    config, arrays = case.data["config"], case.arrays
    images, labels = arrays.tensor("images", built.DTYPES[dtype]), arrays.tensor("labels")
    features = model.forward_head(deit.features(model, images), pre_logits=True)
    case.compare(f"{pooling} features {dtype}", features, arrays[f"features_{pooling}_{dtype}"], FORWARD[dtype])
    logits, _ = deit.heads(model, images, None)
    case.compare(f"{pooling} logits {dtype}", logits, arrays[f"logits_{pooling}_{dtype}"], FORWARD[dtype])
    smoothing = config.get("smoothing", SMOOTHING)
    targets = mix_targets(labels, config["num_classes"], smoothing, UNMIXED, images.dtype)
    loss = classify.soft_cross_entropy(logits, targets)
    case.compare(f"{pooling} loss {dtype}", loss, case.data["loss"][pooling][dtype], LOSS[dtype])
    if dtype == "f64":  # the only gradients stored
        loss.backward()
        ours, theirs = built.gradients(model), case.data["grads"][pooling]
        case.same(f"{pooling} gradients", sorted(ours), sorted(theirs), "names")
        case.summaries(f"{pooling} gradients", ours, theirs, LOSS[dtype])


def losses(case: Case) -> None:
    """04_distill: every base, kind, temperature and weight; losses and the gradients of both heads' logits."""
    _loss_inputs(case)
    for one in case.data["cases"]:
        for dtype in built.DTYPES:
            _distilled(case, one, dtype)


def _loss_inputs(case: Case) -> None:
    config, arrays = case.data["config"], case.arrays
    shape = (config["B"], config["C"])
    for name, amplitude in (("student_cls", 1.0), ("student_dist", 1.0), ("teacher", 1.2)):
        case.given(case.formula.table(f"dist.{name}", shape, amplitude * config["amp"]), name)
    case.given(case.formula.labels("dist.labels", *shape), "labels")
    labels, mix = arrays.tensor("labels"), Mix(config["lam"], None)
    smooth, sharp = (mix_targets(labels, config["C"], smoothing, mix) for smoothing in (config["smoothing"], 0.0))
    case.compare("targets", smooth, arrays["soft_targets"], TARGETS, "soft_targets")
    case.compare("targets", sharp, arrays["mix_targets_nosmooth"], TARGETS, "mix_targets_nosmooth")
    case.compare("binary targets", sharp > 0, arrays["bce_targets"], EXACT, "bce_targets")
    case.compare("binary targets", smooth > 0, arrays["bce_targets_smooth_gt0"], EXACT, "bce_targets_smooth_gt0")


def _distilled(case: Case, one: dict[str, Any], dtype: str) -> None:
    """One loss and what it asks of both heads."""
    arrays, row = case.arrays, f"{one['key']} {dtype}"
    first, second, teacher = (
        arrays.tensor(name, built.DTYPES[dtype]) for name in ("student_cls", "student_dist", "teacher")
    )
    base = loss = _base(case, one["base"], first.requires_grad_())
    second.requires_grad_()
    if one["type"] == "soft":
        loss = distill.total(base, distill.soft_distillation(second, teacher, one["tau"], "elements"), one["alpha"])
    elif one["type"] == "hard":
        loss = distill.total(base, distill.hard_distillation(second, teacher), one["alpha"])
    loss.backward()
    case.compare(row, loss, one[f"loss_{dtype}"], LOSS[dtype], "loss")
    case.compare(row, base, one[f"base_{dtype}"], LOSS[dtype], "base")
    for head, logits in (("gcls", first), ("gdist", second)):
        gradient = logits.grad if logits.grad is not None else torch.zeros_like(logits)
        case.compare(row, gradient, arrays[f"{head}_{dtype}__{one['key']}"], LOSS[dtype], head)


def _base(case: Case, kind: str, logits: Tensor) -> Tensor:
    """The loss on labels; plain and label-smoothed cross-entropy are soft-target ones of unmixed targets."""
    if kind == "soft_ce":
        return classify.soft_cross_entropy(logits, case.arrays.tensor("soft_targets", logits.dtype))
    if kind == "bce":
        return classify.binary_cross_entropy(logits, case.arrays.tensor("mix_targets_nosmooth", logits.dtype))
    smoothing = 0.0 if kind == "ce" else float(kind.removeprefix("label_smoothing_"))
    labels = case.arrays.tensor("labels")
    targets = mix_targets(labels, case.data["config"]["C"], smoothing, UNMIXED, logits.dtype)
    return classify.soft_cross_entropy(logits, targets)


def distilled(case: Case) -> None:
    """05_deit_<id>: features and logits of both tokens, the fused logits, and what moves them."""
    config, data, name = case.data["config"], case.data, case.stem.removeprefix("05_").replace("_", ".")
    case.given(case.formula.images(f"{name}.images", _shape(config)), "images")
    for dtype in built.DTYPES:
        model = built.student(config, case.formula, built.DTYPES[dtype], distilled=True)
        state = model.state_dict()
        case.same("names and shapes", list(state), data["state_dict_order"], "order")
        case.same("names and shapes", {name: list(value.shape) for name, value in state.items()}, data["shapes"])
        images = case.arrays.tensor("images", built.DTYPES[dtype])
        fused = model.eval()(images)  # what whoever loads the folder with timm gets
        for output, ours in [*_outputs(model.train(), images).items(), ("eval_fused", fused)]:
            case.compare(f"{output} {dtype}", ours, case.arrays[f"{output}_{dtype}"], FORWARD[dtype])
    _sensitivity(case)


def _outputs(model: Any, images: Tensor) -> dict[str, Tensor]:
    tokens = deit.features(model, images)
    class_logits, dist_logits = deit.heads(model, images, None)
    assert dist_logits is not None
    fused = deit.mean_logits(model, images)
    by_token = {"cls_feature": tokens[:, 0], "dist_feature": tokens[:, 1]}
    return {**by_token, "train_cls": class_logits, "train_dist": dist_logits, "eval_fused": fused}


@torch.no_grad()
def _sensitivity(case: Case) -> None:
    model = built.student(case.data["config"], case.formula, torch.float64, distilled=True)
    images = case.arrays.tensor("images", torch.float64)
    before = _outputs(model, images)
    for name, theirs in case.data["sensitivity_1e-3"].items():
        with built.nudged(model, name, case.formula):
            after = _outputs(model, images)
        for head, moved in theirs.items():
            ours = (after[f"train_{head}"] - before[f"train_{head}"]).abs().max()
            case.compare("sensitivity", ours, moved, FORWARD["f64"], f"{head} to {name}")


def keys(case: Case) -> None:
    """05_deit_keys_*: the published sizes' names, shapes and counts, and which tensors are exempt from decay."""
    for row, theirs in case.data["models"].items():
        shapes = dict(theirs["state_dict"])
        with torch.device("meta"):
            model: nn.Module = built.student_of(shapes)
        ours = [[name, list(value.shape)] for name, value in model.state_dict().items()]
        case.same(row, ours, theirs["state_dict"], "state dict")
        case.same(row, sum(p.numel() for p in model.parameters()), theirs["total_numel"], "parameters")
        exempt = set(theirs["no_weight_decay"]) & set(shapes)  # timm 1.x also lists a token this model lacks
        tokens: Tokens = "none" if "dist_token" in exempt else "dist"
        spared = {name for name, p in model.named_parameters() if p.ndim > 1 and not decayed(name, p.ndim, tokens)}
        case.same(row, sorted(spared), sorted(exempt), "no weight decay")
        for difference in ("only_official", "only_timm", "shape_differs"):
            case.same(row, [], theirs.get(difference, []), difference)


def _shape(config: dict[str, Any]) -> tuple[int, int, int, int]:
    return config["batch"], 3, config["img_size"], config["img_size"]
