"""A teacher is asked about the student's classes, and sees the same images in its own normalisation."""

from pathlib import Path

import pytest
import torch
from torch import nn

from stages.lib.core.outcome import Refusal
from stages.lib.data.normalise import normalise, standardise
from stages.lib.models import folder, teacher, teaching
from stages.lib.params.teacher import RegNetSizes

SIZES = RegNetSizes(depth=6, w0=24, wa=24.0, wm=2.0, group_size=8, stem_width=16)
CLASSES = ("ant", "bee", "cow")
MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.5, 0.125)
IMAGES = torch.randint(256, (4, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def saved(place: Path, names: tuple[str, ...] | None = CLASSES, **prepared: object) -> nn.Module:
    torch.manual_seed(0)
    model = teacher.create("regnety_002", SIZES, len(names or CLASSES)).eval()
    folder.save(model, place, "regnety_002", teacher.model_args(SIZES), 16, 1.0, names, prepared=prepared)
    return model


def test_load__an_ordinary_teacher_is_the_model_itself(tmp_path: Path) -> None:
    """No map, so not one bit of a run without one changes."""
    model = saved(tmp_path / "t")
    for normalisation in ("same", "own"):
        found = teaching.load(tmp_path / "t", CLASSES, normalisation)  # type: ignore[arg-type]
        assert type(found) is type(model) and not found.training


def test_load__another_normalisation_is_refused_unless_told(tmp_path: Path) -> None:
    saved(tmp_path / "t", mean=list(MEAN), std=list(STD))
    with pytest.raises(Refusal, match=r"mean \[0.5, 0.4, 0.3\].*train.teacher_normalisation: own"):
        teaching.load(tmp_path / "t", CLASSES, "same")


def test_load__own_sees_what_it_was_trained_on(tmp_path: Path) -> None:
    """From the student's pixels to the teacher's: equal to normalising the image for the teacher in the first place."""
    model = saved(tmp_path / "t", mean=list(MEAN), std=list(STD))
    found = teaching.load(tmp_path / "t", CLASSES, "own")
    seen: list[torch.Tensor] = []
    found.teacher.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))  # type: ignore[union-attr]
    answers = found(normalise(IMAGES))
    torch.testing.assert_close(seen[0], standardise(IMAGES, MEAN, STD), rtol=0, atol=2e-6)
    torch.testing.assert_close(answers, model(standardise(IMAGES, MEAN, STD)), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(
        answers, model(normalise(IMAGES)), atol=1e-3
    )  # the control: the student's pixels as they are


def test_renormalised__a_mixture_stays_the_same_mixture() -> None:
    one, other = normalise(IMAGES[:2]), normalise(IMAGES[2:])
    both = teaching.Renormalised(nn.Identity(), MEAN, STD)
    torch.testing.assert_close(both(0.3 * one + 0.7 * other), 0.3 * both(one) + 0.7 * both(other), rtol=0, atol=2e-6)


def test_renormalised__moves_with_what_holds_it() -> None:
    both = teaching.Renormalised(nn.Linear(2, 2), MEAN, STD).double()
    assert {tensor.dtype for tensor in both.state_dict().values()} == {torch.float64}


@pytest.mark.parametrize(
    ("ours", "said"),
    [
        (("ant", "bee"), "knows 3 classes, the student's set has 2"),
        (("ant", "cow", "bee"), "label 1 is bee to the teacher and cow to the student, and 2 differ"),
    ],
)
def test_load__other_classes_are_refused(tmp_path: Path, ours: tuple[str, ...], said: str) -> None:
    saved(tmp_path / "t")
    with pytest.raises(Refusal, match=said):
        teaching.load(tmp_path / "t", ours, "own")


def test_load__a_teacher_that_names_no_classes_must_have_as_many(tmp_path: Path) -> None:
    saved(tmp_path / "t", None)
    assert teaching.load(tmp_path / "t", ("x", "y", "z"), "same") is not None
    with pytest.raises(Refusal, match="knows 3 classes"):
        teaching.load(tmp_path / "t", ("x", "y"), "same")
