"""Neighbours that vote: by hand, on classes that lie apart, and on labels that mean nothing."""

import math

import numpy as np
import pytest
import torch

from stages.lib.training import knn


def clusters(count: int, classes: int, apart: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Features around a direction of each class's own."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    return torch.randn(count, 16, generator=generator) + apart * torch.eye(16)[labels], labels


def test_votes__by_hand() -> None:
    """Cosines 1, 0.6 and 0 with the query; the two nearest vote with exp(cosine / 0.5)."""
    bank = torch.tensor([[2.0, 0.0], [0.3, 0.4], [0.0, 9.0]])
    found = knn.votes(bank, torch.tensor([0, 1, 2]), torch.tensor([[5.0, 0.0]]), 4, 2, 0.5)
    first, second = math.exp(1 / 0.5), math.exp(0.6 / 0.5)
    expected = [first / (first + second), second / (first + second), 0.0, 0.0]
    assert found[0].tolist() == pytest.approx(expected, abs=1e-7)


def test_votes__more_neighbours_than_images_means_all_and_lengths_do_not_count() -> None:
    bank, labels = clusters(12, 3, 1.0)
    few = knn.votes(bank, labels, bank, 3, 12, 0.07)
    assert torch.equal(few, knn.votes(bank, labels, bank, 3, 500, 0.07))
    longer = knn.votes(bank * 7, labels, bank * 0.01, 3, 12, 0.07)
    assert torch.allclose(few, longer, atol=1e-5) and torch.allclose(few.sum(1), torch.ones(12, dtype=torch.float64))


def test_votes__classes_that_lie_apart_are_found_and_shuffled_labels_are_chance() -> None:
    bank, labels = clusters(600, 5, 6.0)
    queries, truth = bank[::2], labels[::2]
    known, others = bank[1::2], labels[1::2]
    right = (knn.votes(known, others, queries, 5, 20, 0.07).argmax(1) == truth).double().mean()
    assert right == 1.0
    shuffled = others[torch.randperm(300, generator=torch.Generator().manual_seed(1))]
    chance = float((knn.votes(known, shuffled, queries, 5, 20, 0.07).argmax(1) == truth).double().mean())
    assert abs(chance - 0.2) < 4 * math.sqrt(0.2 * 0.8 / 300)


def test_votes__agree_with_every_cosine_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where queries come in several portions."""
    monkeypatch.setattr(knn, "QUERIES", 7)
    bank, labels = clusters(40, 3, 1.0)
    queries = clusters(17, 3, 2.0)[0]
    found = knn.votes(bank, labels, queries, 3, 5, 0.1).numpy()
    for query, votes in zip(queries.double().numpy(), found, strict=True):
        cosines = [float(query @ one / np.linalg.norm(query) / np.linalg.norm(one)) for one in bank.double().numpy()]
        nearest = np.argsort(cosines)[::-1][:5]
        weights = np.exp(np.array(cosines)[nearest] / 0.1)
        expected = [weights[labels.numpy()[nearest] == name].sum() / weights.sum() for name in range(3)]
        assert votes == pytest.approx(expected, abs=1e-5)
