"""Nearest neighbours: a class for an image without training anything, from features of labelled images.

Weighted as Wu et al. 2018 (arXiv 1805.01978, section 3.4) and DINO (Caron et al. 2021, arXiv 2104.14294, section 4.1; k 20,
temperature 0.07): each of the k nearest votes for its class with exp(cosine / temperature).
"""

import torch
from torch import Tensor
from torch.nn import functional

QUERIES = 1024
"""At once: their similarities to 1.28 million images take 5 GB."""


def votes(bank: Tensor, labels: Tensor, queries: Tensor, classes: int, neighbours: int, temperature: float) -> Tensor:
    """bank f[M, D] with labels i64[M], queries f[N, D] -> f64[N, classes] on the CPU: each row's votes, which sum to 1.

    Fewer than `neighbours` images in the bank: all of them vote. Features need no length; a zero feature is like nothing.
    """
    near = min(neighbours, len(bank))
    known = functional.normalize(bank.float(), dim=1)
    found = []
    for some in queries.split(QUERIES):
        likeness, places = (functional.normalize(some.float(), dim=1) @ known.T).topk(near, dim=1)
        # sums on the CPU, one row after the other: on a GPU the order in which they are added may differ from run to run
        weights = (likeness.cpu().double() / temperature).softmax(dim=1)
        mine = labels.cpu()[places.cpu()]
        found.append(torch.zeros(len(some), classes, dtype=torch.float64).scatter_add_(1, mine, weights))
    return torch.cat(found)
