"""A pre-norm transformer in plain numpy float64, written from its definition: the independent side of the model tests."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import nn

Weights = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Choices:
    """What a wrong implementation would choose otherwise."""

    eps: float = 1e-6
    tanh_gelu: bool = False


def weights_of(model: nn.Module) -> dict[str, np.ndarray]:
    """Every tensor of a model in float64."""
    return {name: tensor.detach().double().numpy() for name, tensor in model.state_dict().items()}


def layer_norm(x: np.ndarray, w: Weights, name: str, choices: Choices) -> np.ndarray:
    """Over the last axis, biased variance."""
    centred = x - x.mean(-1, keepdims=True)
    variance = (centred**2).mean(-1, keepdims=True)
    return centred / np.sqrt(variance + choices.eps) * w[f"{name}.weight"] + w[f"{name}.bias"]


def linear(x: np.ndarray, w: Weights, name: str) -> np.ndarray:
    """x W' + b."""
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def gelu(x: np.ndarray, choices: Choices) -> np.ndarray:
    """Exact, or the tanh approximation."""
    if choices.tanh_gelu:
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def attention(x: np.ndarray, w: Weights, name: str, heads: int) -> np.ndarray:
    """Multi-head self-attention; the fused matrix gives q, k, v in turn, each head-major."""
    batch, count, width = x.shape
    q, k, v = linear(x, w, f"{name}.qkv").reshape(batch, count, 3, heads, width // heads).transpose(2, 0, 3, 1, 4)
    scores = q @ k.transpose(0, 1, 3, 2) / math.sqrt(width // heads)
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = scores / scores.sum(-1, keepdims=True) @ v
    return linear(mixed.transpose(0, 2, 1, 3).reshape(batch, count, width), w, f"{name}.proj")


def block(
    x: np.ndarray, w: Weights, name: str, heads: int, choices: Choices, factors: np.ndarray | None = None
) -> np.ndarray:
    """Attention, then MLP, each added; `factors` f64[B, 2] scale the two branches of each image."""
    scale = np.ones((len(x), 2)) if factors is None else factors
    x = x + scale[:, 0, None, None] * attention(layer_norm(x, w, f"{name}.norm1", choices), w, f"{name}.attn", heads)
    hidden = gelu(linear(layer_norm(x, w, f"{name}.norm2", choices), w, f"{name}.mlp.fc1"), choices)
    return x + scale[:, 1, None, None] * linear(hidden, w, f"{name}.mlp.fc2")


def embed(images: np.ndarray, w: Weights) -> np.ndarray:
    """Patch embedding, patch by patch: f64[B,3,H,W] -> f64[B,L,D], row-major."""
    kernel = w["patch_embed.proj.weight"]
    patch = kernel.shape[-1]
    rows, columns = images.shape[2] // patch, images.shape[3] // patch
    patches = [
        images[:, :, r * patch : (r + 1) * patch, c * patch : (c + 1) * patch].reshape(len(images), -1)
        for r in range(rows)
        for c in range(columns)
    ]
    return np.stack(patches, 1) @ kernel.reshape(len(kernel), -1).T + w["patch_embed.proj.bias"]
