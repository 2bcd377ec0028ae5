"""DeiT's losses by hand and the objective's treatment of its teacher."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from stages.lib.data.answers import Answers
from stages.lib.data.batch import Batch
from stages.lib.data.mixing import Mix
from stages.lib.data.pixels import classifier_pixels
from stages.lib.models import deit
from stages.lib.objectives.classify import binary_cross_entropy, soft_cross_entropy, targets_of
from stages.lib.objectives.distill import Distill, hard_distillation, soft_distillation, total
from stages.lib.params.vit import ViT


class Teacher(nn.Module):
    """A linear teacher that remembers what it saw and how it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(192, 5)
        self.norm = nn.BatchNorm1d(5)
        self.calls: list[tuple[torch.Tensor, bool, bool]] = []

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Logits f[B, 5]."""
        self.calls.append((pixels, self.training, torch.is_grad_enabled()))
        return self.norm(self.linear(pixels.flatten(1)))


def student(distilled: bool = True, drop_path: float = 0.0) -> deit.VisionTransformer:
    """Lively enough that its heads differ."""
    torch.manual_seed(0)
    model = deit.create(ViT(patch_size=4, width=16, depth=2, heads=2), 8, 5, distilled, drop_path)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.2)
    return model


def batch_of(
    keep: torch.Tensor | None = None, mixes: tuple[Mix, ...] = (Mix(0.3, None), Mix(0.9375, (0, 2, 0, 2)))
) -> Batch:
    """Eight 8 x 8 images in two mixing groups."""
    images = torch.randint(256, (8, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Batch(images, torch.tensor([0, 1, 2, 3, 4, 0, 1, 2]), torch.arange(8), keep=keep, mixes=mixes)


def objective(model: nn.Module, teacher: nn.Module | None, kind: Any, **options: Any) -> Distill:
    """With the paper's label smoothing."""
    return Distill(model, teacher, kind, **{"classes": 5, "smoothing": 0.1, "tau": 3.0, "alpha": 0.3, **options})  # type: ignore[arg-type]


def test_soft_distillation__by_hand() -> None:
    """tau 2, teacher (3/4, 1/4), student (1/2, 1/2) after softening, over B 2 and C 2."""
    teacher = torch.tensor([[2 * math.log(3), 0.0]] * 2, dtype=torch.float64)
    kl = 2 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    equal = torch.ones(2, 2, dtype=torch.float64)
    assert abs(soft_distillation(equal, teacher, 2.0, "elements").item() - 4 * kl / 4) < 1e-12
    assert abs(soft_distillation(equal, teacher, 2.0, "batch").item() - 4 * kl / 2) < 1e-12
    backwards = soft_distillation(teacher, equal, 2.0, "elements").item()  # KL(student || teacher), as the paper writes
    assert abs(backwards - 4 * kl / 4) > 1e-2


def test_soft_distillation__is_torchs_kl_divergence() -> None:
    """And the divisor named `elements` makes it C times smaller."""
    a, b = torch.randn(6, 9, dtype=torch.float64), torch.randn(6, 9, dtype=torch.float64)
    wanted = (
        functional.kl_div(functional.log_softmax(a / 3, 1), functional.softmax(b / 3, 1), reduction="batchmean") * 9
    )
    torch.testing.assert_close(soft_distillation(a, b, 3.0, "batch"), wanted)
    torch.testing.assert_close(soft_distillation(a, b, 3.0, "elements"), wanted / 9)


def test_hard_distillation__cross_entropy_with_the_teachers_decision() -> None:
    """-log p of class 1 is ln 4 and of class 0 ln(4/3): the mean of two images."""
    logits = torch.tensor([[math.log(3), 0.0]] * 2, dtype=torch.float64)
    teacher = torch.tensor([[0.1, 0.2], [9.0, 3.0]])
    assert abs(hard_distillation(logits, teacher).item() - (math.log(4) + math.log(4 / 3)) / 2) < 1e-12


def test_total__weights_the_teacher_by_alpha() -> None:
    """(1 - 0.1) * 2 + 0.1 * 5."""
    assert abs(total(torch.tensor(2.0), torch.tensor(5.0), 0.1).item() - 2.3) < 1e-6


@pytest.mark.parametrize("kind", ["soft", "hard"])
@pytest.mark.parametrize("loss", ["ce", "bce"])
def test_distill__labels_for_the_class_head_teacher_for_the_other(kind: str, loss: str) -> None:
    """Every part recomputed; exchanged heads fail; extras carry no gradient."""
    model, teacher, batch = student(), Teacher(), batch_of()
    result = objective(model, teacher, kind, loss=loss, smoothing=0.0)(batch)
    pixels = classifier_pixels(batch)
    class_logits, dist_logits = deit.heads(model, pixels)
    assert dist_logits is not None
    base_loss = {"ce": soft_cross_entropy, "bce": binary_cross_entropy}[loss]
    wanted = teacher.eval()(pixels)

    def taught(logits: torch.Tensor) -> torch.Tensor:
        return (
            hard_distillation(logits, wanted) if kind == "hard" else soft_distillation(logits, wanted, 3.0, "elements")
        )

    base = base_loss(class_logits, targets_of(batch, 5, 0.0))
    torch.testing.assert_close(result["base"], base)
    torch.testing.assert_close(result["distillation"], taught(dist_logits))
    torch.testing.assert_close(result["loss"], 0.7 * base + 0.3 * taught(dist_logits))
    assert (result["distillation"] - taught(class_logits)).abs() > 1e-5
    assert (
        result["loss"].requires_grad and not result["base"].requires_grad and not result["distillation"].requires_grad
    )


def test_distill__teacher_is_frozen_hidden_and_sees_the_students_pixels() -> None:
    """Eval mode and no gradient after objective.train(); no parameter, no state, no change; mixed pixels."""
    teacher, batch = Teacher(), batch_of()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    model = student()
    distill = objective(model, teacher, "hard").train()
    distill(batch)["loss"].backward()
    pixels, training, grad = teacher.calls[0]
    assert not training and not grad and torch.equal(pixels, classifier_pixels(batch))
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())
    assert [name.removeprefix("student.") for name in distill.state_dict()] == list(model.state_dict())
    assert len(list(distill.parameters())) == len(list(model.parameters()))


def test_distill__teacher_moves_with_the_objective() -> None:
    """.double() here as .to(device) elsewhere."""
    teacher = Teacher()
    objective(student(), teacher, "hard").double()
    assert teacher.linear.weight.dtype == torch.float64


def test_none__one_head_and_two() -> None:
    """The class head; the mean of both logits; the class head alone with fuse off, the other then without gradient."""
    batch = batch_of()
    targets = targets_of(batch, 5, 0.1)
    for distilled, fuse in ((False, True), (True, True), (True, False)):
        model = student(distilled)
        result = objective(model, None, "none", fuse=fuse)(batch)
        logits = deit.mean_logits(model, classifier_pixels(batch))
        if not fuse:
            logits = deit.heads(model, classifier_pixels(batch))[0]
        torch.testing.assert_close(result["loss"], soft_cross_entropy(logits, targets))
        assert result["distillation"] == 0 and torch.equal(result["base"], result["loss"])
        result["loss"].backward()
        if distilled:
            assert (model.head_dist.weight.grad is None) == (not fuse)


def test_distill__stochastic_depth_only_in_train_mode() -> None:
    """Numbers of 0 drop everything they may; eval mode, as DeiT fine-tunes, ignores them."""
    model = student(drop_path=0.5)
    distill = objective(model, Teacher(), "hard")
    dropped, none = batch_of(torch.zeros(8, 2, 2)), batch_of()
    assert not torch.equal(distill(dropped)["base"], distill(none)["base"])
    distill.eval()
    assert torch.equal(distill(dropped)["base"], distill(none)["base"])


def test_distill__a_kind_without_teacher_or_head_is_refused() -> None:
    """As the released code refuses a student without a distillation token."""
    with pytest.raises(ValueError, match="needs a teacher"):
        objective(student(), None, "soft")
    with pytest.raises(ValueError, match="distillation token"):
        objective(student(distilled=False), Teacher(), "hard")


def answered(batch: Batch, logits: torch.Tensor, top_k: int) -> Batch:
    """The batch with what a store would hold of these logits: decisions, and the k highest probabilities in 16 bits."""
    most, classes = logits.log_softmax(-1).topk(top_k)
    rest = (
        (1 - most.exp().sum(-1)).clamp_min(0).log()
        if top_k < logits.shape[1]
        else torch.full((len(logits),), -math.inf)
    )
    said = Answers(logits.argmax(-1), classes, most.half().float(), rest.half().float())
    return dataclasses.replace(batch, answers=said)


def test_answers__hard_is_the_live_loss_bit_for_bit_and_the_teacher_is_not_asked() -> None:
    teacher, batch, model = Teacher().eval(), batch_of(), student()
    live = objective(model, teacher, "hard")(batch)
    logits = teacher(classifier_pixels(batch)).detach()
    asked = len(teacher.calls)
    for beside in (None, teacher):
        stored = objective(model, beside, "hard", answered=True)(answered(batch, logits, 1))
        assert all(torch.equal(stored[name], live[name]) for name in live)
    assert len(teacher.calls) == asked
    other = answered(batch, logits.roll(1, 0), 1)  # negative control: another image's answers
    assert not torch.equal(objective(model, None, "hard", answered=True)(other)["loss"], live["loss"])


def test_answers__soft_with_every_class_is_the_live_loss_to_16_bits() -> None:
    teacher, batch, model = Teacher().eval(), batch_of(), student()
    live = objective(model, teacher, "soft")(batch)
    logits = teacher(classifier_pixels(batch)).detach()
    stored = objective(model, None, "soft", answered=True)(answered(batch, logits, 5))
    torch.testing.assert_close(stored["distillation"], live["distillation"], rtol=2e-2, atol=1e-5)
    fewer = objective(model, None, "soft", answered=True)(answered(batch, logits, 1))
    assert (fewer["distillation"] - live["distillation"]).abs() > 10 * (
        stored["distillation"] - live["distillation"]
    ).abs()


def test_answers__soft_with_fewer_classes_by_hand() -> None:
    """tau 2; of 5 classes one has 3/7 and the rest 4/7, so 1/7 each: sqrt 3 against ones; the student says all are equal."""
    said = Answers(torch.tensor([2]), torch.tensor([[2]]), torch.tensor([[3 / 7]]).log(), torch.tensor([4 / 7]).log())
    model = objective(student(), None, "soft", answered=True, tau=2.0)
    share, total_ = math.sqrt(3), math.sqrt(3) + 4
    kl = share / total_ * math.log(5 * share / total_) + 4 / total_ * math.log(5 / total_)
    assert abs(model.as_answered(torch.ones(1, 5), said).item() - 4 * kl / 5) < 1e-6


def test_teacher__answers_in_its_own_number_format() -> None:
    """bf16 is what autocast makes of it, and a student's own autocast around it changes nothing."""
    teacher, batch, model = Teacher().eval(), batch_of(), student()
    with torch.autocast("cpu", torch.bfloat16):
        wanted = teacher(classifier_pixels(batch)).detach().float()
    rounded = objective(model, teacher, "soft", teacher_precision="bf16")(batch)["distillation"]
    _, logits = deit.heads(model, classifier_pixels(batch))
    assert logits is not None
    torch.testing.assert_close(rounded, soft_distillation(logits, wanted, 3.0, "elements"), rtol=0, atol=0)
    assert not torch.equal(rounded, objective(model, teacher, "soft")(batch)["distillation"])


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_distill__without_the_token_labels_and_teacher_teach_one_head(kind: str) -> None:
    """DeiT Table 3, first rows: every part recomputed on the same logits, live and answered; alpha 1: the teacher alone."""
    model, teacher, batch = student(distilled=False), Teacher(), batch_of()
    result = objective(model, teacher, kind, token=False)(batch)
    pixels = classifier_pixels(batch)
    logits, none = deit.heads(model, pixels)
    wanted = teacher.eval()(pixels)
    taught = hard_distillation(logits, wanted) if kind == "hard" else soft_distillation(logits, wanted, 3.0, "elements")
    base = soft_cross_entropy(logits, targets_of(batch, 5, 0.1))
    assert none is None
    torch.testing.assert_close(result["loss"], 0.7 * base + 0.3 * taught)
    assert torch.equal(objective(model, teacher, kind, token=False, alpha=1.0)(batch)["loss"], result["distillation"])
    stored = objective(model, None, kind, token=False, answered=True)(answered(batch, wanted, 4))
    assert abs(stored["distillation"] - taught) < 1e-3 and torch.equal(stored["base"], result["base"])
