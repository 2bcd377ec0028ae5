"""09: ten optimizer steps with the stages' own objectives, parameter groups and loop."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stages.lib.data.batch import Batch
from stages.lib.data.mixing import Mix, mix_targets
from stages.lib.models import deit
from stages.lib.objectives import distill
from stages.lib.params.optimizer import Optimizer
from stages.lib.training import loop, optimizer
from stages.lib.training.optimizer import Tokens
from tests.golden_cases import built, mae
from tests.golden_cases.reference import Case

LOSSES = {"f64": 1e-9, "f32": 2e-5}
NORMS = {"f64": 1e-9, "f32": 1e-3}
SUMMARIES = {"f64": 1e-8, "f32": 5e-3}  # Adam turns float32's rounding noise into whole steps
LOGITS = {"f64": 1e-9, "f32": 5e-4}
TARGETS = 1e-7
MAE_BETAS = [0.9, 0.95]  # the README's: the runs of 09_traj_mae do not store them
TEACHER = 2.5  # amplitude of the teacher's logits, likewise


class Answers(nn.Module):
    """A teacher that gives the stored logits, one batch after the other."""

    def __init__(self, logits: Tensor, batch: int) -> None:
        super().__init__()
        self.parts = iter(logits.split(batch))

    def forward(self, _images: Tensor) -> Tensor:
        """The next batch's logits."""
        return next(self.parts)


class Distill(distill.Distill):
    """The stage's objective with nothing replaced but the bytes: a reference gives pixels already normalised."""

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss", ...}."""
        stored = distill.classifier_pixels
        distill.classifier_pixels = lambda batch: batch.images
        try:
            return super().forward(batch)
        finally:
            distill.classifier_pixels = stored


@dataclass
class Run:
    """One run in one precision: the stage's loop and what the reference saw."""

    name: str
    dtype: str
    objective: nn.Module
    model: Any
    cfg: Optimizer
    theirs: dict[str, Any]

    def __post_init__(self) -> None:
        built_optimizer = optimizer.build(self.cfg, self.model, depth=len(self.model.blocks))
        self.trained = loop.Trained(objective=self.objective, network=self.model, optimizer=built_optimizer)

    def step(self, batch: Batch) -> Tensor:
        """The loop's own step; returns the loss before it."""
        rate = optimizer.peak_lr(self.cfg, len(batch.images))
        return loop._step(self.trained, batch, rate, clip_norm=0.0)["loss"].detach()


def autoencoder(case: Case) -> None:
    """MAE runs: plain and normalised pixels."""
    config, arrays = case.data["config"], case.arrays
    shape, count = arrays["images"].shape[1:], arrays["noise"].shape[1:]
    case.given([case.formula.images(f"traj.mae.images.{s}", shape) for s in range(config["steps"])], "images")
    case.given([case.formula.noise(f"traj.mae.noise.{s}", count) for s in range(config["steps"])], "noise")
    for name, dtype, theirs in _runs(case):
        images, noise = (arrays.tensor(kind, built.DTYPES[dtype]) for kind in ("images", "noise"))
        batches = [mae.Inputs(*pair).batch for pair in zip(images, noise, strict=True)]
        model = built.mae(case.data["model_config"], case.formula, built.DTYPES[dtype])
        objective = mae.Reconstruct(model, norm_pix=name == "norm_pix")
        betas = theirs.get("optimizer", {}).get("betas", MAE_BETAS)
        run = Run(name, dtype, objective, model, adamw(config, betas, _tokens(theirs)), theirs)
        _train(case, run, batches)
        after = objective(batches[0])["loss"]
        case.compare(f"{name} losses {dtype}", after, theirs["loss_batch0_after"], LOSSES[dtype], "batch 0 after")


def student(case: Case) -> None:
    """DeiT runs: hard, soft and no distillation."""
    config, sizes = case.data["config"], case.data["model_config"]
    _student_inputs(case)
    for name, dtype, theirs in _runs(case):
        kind = case.data["runs"][name]
        model = built.student(sizes, case.formula, built.DTYPES[dtype], distilled=True)
        answers = Answers(case.arrays.tensor("teacher", built.DTYPES[dtype]), sizes["batch"])
        objective = Distill(
            model, answers, kind["distillation_type"], classes=sizes["num_classes"], smoothing=config["smoothing"],
            alpha=kind["alpha"], tau=kind["tau"], fuse=False,
        )  # fmt: skip
        run = Run(name, dtype, objective, model, adamw(config, theirs["optimizer"]["betas"], _tokens(theirs)), theirs)
        batches = list(_labelled(case, dtype))
        _train(case, run, batches)
        logits = deit.mean_logits(model.eval(), batches[0].images)
        case.compare(f"{name} logits after {dtype}", logits, theirs["eval_logits_batch0_after"], LOGITS[dtype])


def adamw(config: dict[str, Any], betas: Sequence[float], tokens: Tokens) -> Optimizer:
    """The optimizer block of a run with a constant rate."""
    return Optimizer(
        name="adamw", lr=config["lr"], lr_per=0, weight_decay=config["wd"], betas=(betas[0], betas[1]),
        decay_tokens=tokens,
    )  # fmt: skip


def _runs(case: Case) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(run, precision, what the reference saw)."""
    for name, run in case.data["runs"].items():
        for dtype in built.DTYPES:
            yield name, dtype, run[dtype]


def _student_inputs(case: Case) -> None:
    config, arrays, formula = case.data["config"], case.arrays, case.formula
    steps, classes = range(config["steps"]), case.data["model_config"]["num_classes"]
    shape, count = arrays["images"].shape[1:], arrays["labels"].shape[1]
    labels = [formula.labels(f"traj.deit.labels.{step}", count, classes) for step in steps]
    case.given([formula.images(f"traj.deit.images.{step}", shape) for step in steps], "images")
    case.given(labels, "labels")
    case.given(formula.table("traj.deit.teacher", arrays["teacher"].shape, TEACHER), "teacher")
    for step in steps:
        targets = mix_targets(torch.from_numpy(labels[step]), classes, config["smoothing"], Mix(config["lam"], None))
        case.compare("targets", targets, arrays["soft_targets"][step], TARGETS, f"step {step}")


def _labelled(case: Case, dtype: str) -> Iterator[Batch]:
    """One batch a step, its labels to be mixed in one group."""
    mix = Mix(case.data["config"]["lam"], None)
    images, labels = case.arrays.tensor("images", built.DTYPES[dtype]), case.arrays.tensor("labels")
    for one, wanted in zip(images, labels, strict=True):
        yield Batch(images=one, labels=wanted, positions=torch.arange(len(one)), mixes=(mix,))


def _train(case: Case, run: Run, batches: list[Batch]) -> None:
    """Train as the loop does, comparing the loss and the gradient norm of every step and the weights at the end."""
    name, dtype, theirs = run.name, run.dtype, run.theirs
    _groups(case, run)
    for step, batch in enumerate(batches):
        loss, at = run.step(batch), f"step {step}"
        case.compare(f"{name} losses {dtype}", loss, theirs["losses"][step], LOSSES[dtype], at)
        case.compare(f"{name} gradient norms {dtype}", _norm(run.model), theirs["grad_norms"][step], NORMS[dtype], at)
    final = theirs["final"]
    if dtype == "f32":  # the gradient of the keys' bias is rounding noise, of which Adam makes steps
        final = {key: value for key, value in final.items() if not key.endswith("qkv.bias")}
    case.summaries(f"{name} weights after {dtype}", dict(run.model.named_parameters()), final, SUMMARIES[dtype])


def _tokens(theirs: dict[str, Any]) -> Tokens:
    """Which choice the run made, read off its decayed tensors."""
    decays = {name for group in theirs["groups"] if group["weight_decay"] for name in group["names"]}
    return "all" if "cls_token" in decays else "dist" if "dist_token" in decays else "none"


def _groups(case: Case, run: Run) -> None:
    """The same tensors with the same decay, and the same betas and eps; the order of groups changes nothing."""
    ours = {name: group["weight_decay"] for group in run.trained.optimizer.param_groups for name in group["names"]}
    theirs = {name: group["weight_decay"] for group in run.theirs["groups"] for name in group["names"]}
    case.same(f"{run.name} groups", ours, theirs, "decay by name")
    for group in run.trained.optimizer.param_groups:
        settings = {"betas": list(group["betas"]), "eps": group["eps"], "type": type(run.trained.optimizer).__name__}
        expected = run.theirs.get("optimizer", {})
        case.same(f"{run.name} groups", settings, {name: expected.get(name, settings[name]) for name in settings})


def _norm(model: nn.Module) -> float:
    """Global norm of the gradients."""
    return float(sum((p.grad.double() ** 2).sum() for p in model.parameters() if p.grad is not None) ** 0.5)
