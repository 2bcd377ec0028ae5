"""Asking a teacher about an epoch: answers by position, whatever the forward passes, and a count of what that flips."""

import numpy as np
import pytest
import torch
from torch import nn

from stages.lib.data.answers import Answers
from stages.lib.data.batch import Batch
from stages.lib.data.pixels import classifier_pixels
from stages.lib.models import teaching
from stages.lib.training import fastest
from stages.lib.training.labelling import Answered, Way, asked, flips, label_epoch, laid_out, layout, logits_of, passes

CPU = torch.device("cpu")
CLASSES = 7


class Teacher(nn.Module):
    """A convolution and a linear head; remembers how many images it was asked about at once, and in which layout."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, CLASSES)
        self.asked: list[tuple[int, bool]] = []

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """f[B, 7]."""
        last = pixels.is_contiguous(memory_format=torch.channels_last) and not pixels.is_contiguous()
        self.asked.append((len(pixels), last))
        return self.head(self.conv(pixels).mean((2, 3))) * 20


def batches(count: int = 5, size: int = 4) -> list[Batch]:
    """Positions rearranged within each batch, as mixing groups do."""
    rng = torch.Generator().manual_seed(1)
    return [
        Batch(
            torch.randint(256, (size, 3, 8, 8), dtype=torch.uint8, generator=rng),
            torch.zeros(size, dtype=torch.int64),
            number * size + torch.arange(size).flip(0),
        )
        for number in range(count)
    ]


def labelled(way: Way, top_k: int = 0, teacher: nn.Module | None = None) -> dict[str, np.ndarray]:
    done: list[int] = []
    found = label_epoch((teacher or Teacher()).eval(), batches(), 20, top_k, way, CPU, done.append)
    assert sum(done) == 20
    return found


def test_label_epoch__the_teachers_decision_at_each_position() -> None:
    teacher = Teacher().eval()
    found = labelled(Way("fp32"), teacher=teacher)
    assert teacher.asked == [(4, False)] * 5
    for batch in batches():
        wanted = teacher(classifier_pixels(batch)).argmax(-1)
        assert found["hard"][batch.positions.numpy()].tolist() == wanted.tolist()
    assert len(set(found["hard"].tolist())) > 2, "the comparison would not notice an exchange"


@pytest.mark.parametrize(
    ("images", "sizes"), [(0, [4] * 5), (3, [3, 1] * 5), (4, [4] * 5), (9, [8, 8, 4]), (100, [20])]
)
def test_label_epoch__any_number_of_images_at_once(images: int, sizes: list[int]) -> None:
    teacher = Teacher()
    found = labelled(Way("fp32", images), teacher=teacher)
    assert [size for size, _ in teacher.asked] == sizes
    assert found["hard"].tolist() == labelled(Way("fp32"))["hard"].tolist()


def test_label_epoch__probabilities_at_temperature_1_and_the_rest() -> None:
    teacher = Teacher().eval()
    found = labelled(Way("fp32"), 3, teacher)
    batch = batches()[1]
    every = teacher(classifier_pixels(batch)).log_softmax(-1)
    most, classes = every.topk(3)
    places = batch.positions.numpy()
    assert found["classes"][places].tolist() == classes.tolist() and found["log_rest"].dtype == np.float16
    np.testing.assert_allclose(found["log_probabilities"][places], most.detach().numpy(), rtol=2**-10)
    np.testing.assert_allclose(
        found["log_rest"][places], (1 - most.exp().sum(-1)).log().detach().numpy(), rtol=2e-3, atol=1e-3
    )


def test_label_epoch__all_classes_say_what_the_logits_said_to_16_bits() -> None:
    """What a student is taught at tau 3: within the rounding of the logarithms, and exact where nothing is rounded."""
    teacher = Teacher().eval()
    found = labelled(Way("fp32"), CLASSES, teacher)
    batch = batches()[2]
    places = batch.positions.numpy()
    logits = teacher(classifier_pixels(batch)).detach()
    said = Answers(
        *(
            torch.from_numpy(found[name][places].astype(kind))
            for name, kind in (("hard", np.int64), ("classes", np.int64))
        ),
        *(torch.from_numpy(found[name][places].astype(np.float32)) for name in ("log_probabilities", "log_rest")),
    )
    given, wanted = (said.spread(CLASSES) / 3).log_softmax(-1), (logits / 3).log_softmax(-1)
    assert (given - wanted).abs().max() <= wanted.abs().max() * 2**-10
    assert torch.isneginf(said.log_rest).all()  # type: ignore[arg-type]
    few = labelled(Way("fp32"), 2, teacher)  # negative control: with two classes of seven the others are guesses
    guess = Answers(
        said.hard,
        torch.from_numpy(few["classes"][places].astype(np.int64)),
        torch.from_numpy(few["log_probabilities"][places].astype(np.float32)),
        torch.from_numpy(few["log_rest"][places].astype(np.float32)),
    )
    assert ((guess.spread(CLASSES) / 3).log_softmax(-1) - wanted).abs().max() > 0.1


def test_answered__a_position_twice_or_never_is_an_error_of_ours() -> None:
    for positions in ([0, 1], [0, 1, 1], [0, 1, 2, 2]):
        answered = Answered(3, 0, CPU)
        answered.add(torch.tensor(positions), torch.zeros(len(positions), CLASSES))
        with pytest.raises(AssertionError):
            answered.arrays()


def test_passes__hold_as_many_batches_as_asked_and_at_least_one() -> None:
    assert [len(some) for some in passes(batches(), Way("fp32", 8))] == [2, 2, 1]
    assert [len(some) for some in passes(batches(), Way("fp32", 1))] == [1] * 5


def test_channels_last__is_what_the_teacher_then_sees() -> None:
    teacher, way = Teacher().eval(), Way("fp32", channels_last=True)
    logits = logits_of(laid_out(teacher, way), batches(1), way)
    assert teacher.asked == [(4, True)] and teacher.conv.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(logits, logits_of(laid_out(teacher, Way("fp32")), batches(1), Way("fp32")))
    assert teacher.asked[1] == (4, False)


@pytest.mark.parametrize(
    ("last", "first", "wins"),
    [
        (1.0, 0.5, "contiguous"),  # grouped convolutions on an H200
        (1.0, 0.9, "channels-last"),
        (1.0, 2.0, "channels-last"),
        (1e-5, 1e-9, "channels-last"),  # nothing to gain
    ],
)
def test_layout__channels_last_unless_the_teacher_is_clearly_faster_without(
    monkeypatch: pytest.MonkeyPatch, last: float, first: float, wins: str
) -> None:
    teacher = Teacher().eval()
    before = teacher.conv.weight.detach().clone()

    def timed(step, _):  # type: ignore[no-untyped-def]
        step()
        weights_last = not teacher.conv.weight.is_contiguous()
        assert teacher.asked[-1][1] == weights_last, "images and weights lie in different orders"
        return last if weights_last else first

    monkeypatch.setattr(fastest, "timed", timed)
    assert layout(teacher, "fp32", 8) == wins
    assert teacher.conv.weight.is_contiguous() and torch.equal(teacher.conv.weight, before)


def test_asked__is_the_teacher_itself_unless_it_is_compiled() -> None:
    teacher = Teacher().eval()
    assert asked(teacher, Way("fp32")) is teacher
    assert teacher.conv.weight.is_contiguous()
    assert asked(teacher, Way("fp32", channels_last=True, compiled=True)) is not teacher
    assert teacher.conv.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.slow
def test_asked__compiled_says_the_same_also_of_a_smaller_last_pass() -> None:
    """The convolution and the head alone: a compiled graph remembers no calls."""
    torch.compiler.reset()
    teacher, way = (
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(288, CLASSES)).eval(),
        Way("fp32", 8, compiled=True),
    )
    fast = asked(teacher, way)
    found = label_epoch(fast, batches(), 20, 0, way, CPU, lambda _: None)
    assert found["hard"].tolist() == labelled(Way("fp32"), teacher=teacher)["hard"].tolist()
    assert len(set(found["hard"].tolist())) > 1
    assert flips(teacher, batches(), way, CPU, fast)["from_live"] == 0.0
    torch.compiler.reset()


def test_flips__asks_what_was_compiled_and_compares_with_the_teacher() -> None:
    """Negative control: where the compiled one decided otherwise, all is counted."""
    other = Teacher().eval()
    with torch.no_grad():
        other.head.bias[3] = 1e6
    found = flips(Teacher().eval(), batches(), Way("fp32"), CPU, other)
    assert found["from_live"] > 0.5 and len(other.asked) == 5


class Brittle(Teacher):
    """Decides by how it is asked: another number of images, layout or number format gives other labels."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """The class says how many images were asked about."""
        single = not torch.is_autocast_enabled("cpu")
        return nn.functional.one_hot(torch.full((len(pixels),), len(pixels) % 3 + 3 * single), CLASSES).float()


def test_flips__are_counted_against_the_teacher_beside_a_student() -> None:
    same = flips(Teacher().eval(), batches(), Way("fp32"), CPU)
    assert same == {"images": 20, "from_live": 0.0, "of_precision": 0.0}
    apart = flips(
        Brittle().eval(), batches(), Way("fp32", 3), CPU
    )  # asked about 3 and 1 at once; beside a student about 4
    assert apart == {"images": 20, "from_live": 0.75, "of_precision": 0.0}
    assert flips(Brittle().eval(), batches(), Way("bf16"), CPU) == {"images": 20, "from_live": 0.0, "of_precision": 1.0}


def test_ask__in_its_own_number_format_whatever_surrounds_it() -> None:
    teacher, pixels = Teacher().eval(), classifier_pixels(batches(1)[0])
    plain = teaching.ask(teacher, pixels, "fp32")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(teaching.ask(teacher, pixels, "fp32"), plain)
        rounded = teaching.ask(teacher, pixels, "bf16")
    assert torch.equal(rounded, teaching.ask(teacher, pixels, "bf16"))
    assert rounded.dtype == torch.float32 and not torch.equal(rounded, plain) and not plain.requires_grad
    assert teaching.ask(teacher.double(), pixels.double(), "fp32").dtype == torch.float64
