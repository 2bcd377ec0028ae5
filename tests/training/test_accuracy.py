"""Metrics against scikit-learn's and against answers worked out by hand."""

import math

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import binom
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss, top_k_accuracy_score
from torch import Tensor

from stages.lib.core.outcome import Refusal
from stages.lib.training import accuracy

N, K = 203, 11


@pytest.fixture(scope="module")
def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Two heads that are often right and often disagree; class 10 has no image, classes are unbalanced."""
    generator = torch.Generator().manual_seed(3)
    labels = (torch.rand(N, generator=generator) ** 2 * (K - 1)).long()
    truth = torch.nn.functional.one_hot(labels, K)
    first = torch.randn(N, K, generator=generator) * 2 + 2 * truth
    second = torch.randn(N, K, generator=generator) * 2 + 1 * truth
    return first, second, labels


def tally_of(first: Tensor, second: Tensor | None, labels: Tensor, size: int) -> accuracy.Tally:
    tally = accuracy.Tally(K)
    for start in range(0, len(labels), size):
        part = slice(start, start + size)
        tally.add(first[part], None if second is None else second[part], labels[part])
    return tally


def with_interval(name: str, percent: float, images: int) -> dict[str, float]:
    """The bootstrap's quantiles by scipy's binomial distribution."""
    low, high = (100 * binom.ppf(share, images, percent / 100) / images for share in (0.025, 0.975))
    return {name: percent, f"{name}_low": low, f"{name}_high": high}


def calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """ECE image by image, as Guo et al. 2017 write it."""
    groups: dict[int, list[tuple[float, bool]]] = {}
    for row, label in zip(probabilities, labels, strict=True):
        groups.setdefault(math.ceil(row.max() * 15), []).append((row.max(), row.argmax() == label))
    gaps = [abs(sum(p for p, _ in group) - sum(hit for _, hit in group)) for group in groups.values()]
    return 100 * sum(gaps) / len(labels)


def independent(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The same numbers by scikit-learn and scipy, the calibration error by hand."""
    predicted = probabilities.argmax(1)
    top5 = 100 * top_k_accuracy_score(labels, probabilities, k=5, labels=np.arange(K))
    return {
        **with_interval("top1", 100 * accuracy_score(labels, predicted), len(labels)),
        **with_interval("top5", top5, len(labels)),
        "mean_per_class": 100 * balanced_accuracy_score(labels, predicted),
        "ece": calibration_error(probabilities, labels),
        "nll": log_loss(labels, probabilities, labels=np.arange(K)),
    }


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_metrics__are_those_of_scikit_learn(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    first, second, labels = batch
    a, b = (softmax(z.double().numpy(), axis=1) for z in (first, second))
    fused = softmax(((first + second) / 2).double().numpy(), axis=1)
    expected = {"class": a, "dist": b, "fused_logits": fused, "fused_probs": (a + b) / 2}
    measured = tally_of(first, second, labels, 64).metrics()["heads"]
    assert list(measured) == list(expected)
    for name, probabilities in expected.items():
        right = independent(probabilities, labels.numpy())
        assert list(measured[name]) == list(right)
        for number, value in right.items():
            assert measured[name][number] == pytest.approx(value, abs=6e-5 if number != "nll" else 6e-7), (name, number)
    # negative controls: what a wrong variant of each number would give is far away
    wrong = independent(a, np.roll(labels.numpy(), 1))
    assert all(abs(measured["class"][number] - value) > 0.5 for number, value in wrong.items())
    shares = [accuracy_score(labels[labels == k], first[labels == k].argmax(1)) for k in range(K - 1)]
    assert abs(measured["class"]["mean_per_class"] - 100 * np.mean([*shares, 0])) > 1  # class 10 counted as 0 %
    assert len({measured[name]["nll"] for name in measured}) == 4


def test_metrics__do_not_depend_on_the_batches(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    first, second, labels = batch
    whole, parts = tally_of(first, second, labels, N), tally_of(first, second, labels, 7)
    assert whole.metrics() == parts.metrics()
    assert np.array_equal(whole.labels, parts.labels)
    for name, judged in whole.heads().items():
        assert len(judged.predicted) == N
        assert np.array_equal(judged.probability, parts.heads()[name].probability)


def test_agreement__of_heads_known_by_hand() -> None:
    first = torch.tensor([[5.0, 0, 0], [5.0, 0, 0], [0, 5.0, 0], [0, 0, 5.0]])
    second = torch.tensor([[1.0, 0, 0], [0, 9.0, 0], [0, 1.0, 0], [9.0, 0, 0]])
    tally = accuracy.Tally(3)
    tally.add(first, second, torch.tensor([0, 0, 1, 2]))
    metrics = tally.metrics()
    assert metrics["agreement"] == {"class_dist": 50.0, "class_fused_logits": 50.0, "dist_fused_logits": 100.0}
    assert "top5" not in metrics["heads"]["class"]  # 3 classes
    assert [metrics["heads"][name]["top1"] for name in ("class", "dist")] == [100.0, 50.0]


def test_fusions__differ_where_they_should() -> None:
    """Mean of logits prefers class 2 (0, 0, 1); mean of softmaxes class 0, of which one head is sure."""
    first, second = torch.tensor([[9.0, 0.0, 5.0]]), torch.tensor([[-9.0, 0.0, -3.0]])
    scores = accuracy.heads_of(first, second)
    assert torch.equal(scores["fused_logits"], torch.tensor([[0.0, 0.0, 1.0]]))
    assert scores["fused_logits"].argmax() == 2
    assert scores["fused_probs"].argmax() == 0
    expected = (first.double().softmax(1) + second.double().softmax(1)) / 2
    assert torch.allclose(scores["fused_probs"].exp(), expected, rtol=1e-12)


def test_one_head__has_no_fusion() -> None:
    tally = accuracy.Tally(2)
    tally.add(torch.tensor([[0.0, 0.0], [0.0, math.log(3)]]), None, torch.tensor([1, 1]))
    metrics = tally.metrics()
    interval = {
        "top1_low": 0.0,
        "top1_high": 100.0,
    }  # of two images a quarter of all resamples miss twice, a quarter never
    nll, ece = round((math.log(2) + math.log(4 / 3)) / 2, 6), 37.5  # gaps of 0.5, wrong, and 0.25, right
    assert metrics == {
        "heads": {"class": {"top1": 50.0, **interval, "mean_per_class": 50.0, "ece": ece, "nll": nll}},
    }
    assert tally.heads()["class"].probability.tolist() == [0.5, 0.75]


def test_ties__go_to_the_lowest_index() -> None:
    """Seven equal scores: the class is 0, and labels 0 to 4 are in the top 5, 5 and 6 are not."""
    labels = torch.arange(7)
    judged = accuracy.judge(torch.zeros(7, 7), labels)
    assert judged.predicted.tolist() == [0] * 7
    assert judged.in_top5.tolist() == [True] * 5 + [False] * 2


def test_judge__large_logits_stay_finite() -> None:
    judged = accuracy.judge(torch.tensor([[1e4, 0.0, -1e4]]), torch.tensor([2]))
    assert judged.nll.tolist() == [2e4]
    scores = accuracy.heads_of(torch.tensor([[1e4, 0.0, -1e4]]), torch.tensor([[-1e4, 0.0, 1e4]]))
    assert accuracy.judge(scores["fused_probs"], torch.tensor([2])).nll[0] == pytest.approx(math.log(2))


def test_per_class__counts_by_hand() -> None:
    images, right = accuracy.per_class(np.array([0, 1, 1, 2]), np.array([0, 0, 1, 1]), 4)
    assert images.tolist() == [2, 2, 0, 0]
    assert right.tolist() == [1, 1, 0, 0]


def test_add__refuses_what_is_not_finite() -> None:
    tally = accuracy.Tally(2)
    bad = torch.tensor([[0.0, float("nan")]])
    with pytest.raises(Refusal, match="distillation head"):
        tally.add(torch.zeros(1, 2), bad, torch.tensor([0]))
    with pytest.raises(Refusal, match="class head"):
        tally.add(bad, None, torch.tensor([0]))
