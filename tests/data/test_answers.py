"""What a teacher said, as students read it: the rest spread evenly, softened by any temperature."""

import math

import pytest
import torch

from stages.lib.data.answers import Answers
from stages.lib.data.batch import Batch


def answers(log_probabilities: list[list[float]], classes: list[list[int]], log_rest: list[float]) -> Answers:
    tables = torch.tensor(classes), torch.tensor(log_probabilities), torch.tensor(log_rest)
    return Answers(tables[0][:, 0], *tables)


def test_spread__by_hand_for_fewer_classes_than_there_are() -> None:
    """Of 4 classes, 2 has 1/2 and 0 has 1/4; the rest of 1/4 gives 1 and 3 an eighth each. At temperature 2: square roots."""
    said = answers([[math.log(1 / 2), math.log(1 / 4)]], [[2, 0]], [math.log(1 / 4)])
    torch.testing.assert_close(said.spread(4).exp(), torch.tensor([[1 / 4, 1 / 8, 1 / 2, 1 / 8]]))
    roots = torch.tensor([[1 / 4, 1 / 8, 1 / 2, 1 / 8]]).sqrt()
    torch.testing.assert_close((said.spread(4) / 2).softmax(-1), roots / roots.sum())
    assert (
        said.spread(5).exp() - said.spread(4).exp()[:, [0, 1, 2, 3, 3]]
    ).abs().max() > 0.02  # a class more, another share


def test_spread__with_every_class_the_rest_is_nothing() -> None:
    said = answers([[math.log(0.7), math.log(0.2), math.log(0.1)]], [[1, 2, 0]], [-math.inf])
    torch.testing.assert_close(said.spread(3).exp(), torch.tensor([[0.1, 0.7, 0.2]]))


def test_spread__decisions_alone_are_not_enough() -> None:
    with pytest.raises(ValueError, match="decisions"):
        Answers(torch.tensor([1])).spread(3)


def test_answers__a_part_is_about_the_same_images() -> None:
    """As micro-batches take them; decisions alone stay that."""
    said = answers([[-0.1, -3.0]] * 3, [[0, 1], [1, 0], [2, 1]], [-4.0, -5.0, -6.0])
    part = said[1:3]
    assert len(part) == 2 and part.hard.tolist() == [1, 2]
    assert torch.equal(part.spread(4), said.spread(4)[1:3])
    assert Answers(torch.tensor([1, 2]))[:1].classes is None


def test_batch__takes_its_answers_along() -> None:
    batch = Batch(torch.zeros(2, 3, 4, 4), torch.zeros(2), torch.arange(2), answers=Answers(torch.tensor([3, 4])))
    moved = batch.to(torch.device("meta")).answers
    assert moved is not None and moved.hard.device.type == "meta" and moved.classes is None
