"""Closed-form tensors of the golden folders: a name, a shape and the folder's constants give every number.

Written from section 2 of the golden README; numpy only. Integer work is exact in int64. Float results are rounded to
float32, and that rounded value is the definition.
"""

import math
import zlib
from collections.abc import Mapping, Sequence

import numpy as np


class Formula:
    """Named arrays of one folder, by its constants.json."""

    def __init__(self, constants: Mapping[str, float]) -> None:
        self.constants = constants
        self.modulus, self.a, self.b, self.c = (int(constants[name]) for name in ("M", "A", "B", "C"))

    def key(self, name: str) -> int:
        """crc32 of the UTF-8 name, modulo M."""
        return zlib.crc32(name.encode()) % self.modulus

    def cubes(self, name: str, count: int) -> np.ndarray:
        """(i + key)^3 mod M for i < count: i64[count]."""
        base = (np.arange(count, dtype=np.int64) + self.key(name)) % self.modulus
        return base * base % self.modulus * base % self.modulus

    def phase(self, name: str, count: int) -> np.ndarray:
        """i64[count] in 0..M-1."""
        place = np.arange(count, dtype=np.int64) % self.modulus
        return (self.a * self.cubes(name, count) + self.b * place + self.c * self.key(name)) % self.modulus

    def wave(self, name: str, shape: Sequence[int]) -> np.ndarray:
        """f64 in [-1, 1]."""
        return np.sin(2.0 * math.pi * self.phase(name, math.prod(shape)) / self.modulus).reshape(shape)

    def table(self, name: str, shape: Sequence[int], amplitude: float = 1.0) -> np.ndarray:
        """amplitude * wave, f32."""
        return (amplitude * self.wave(name, shape)).astype(np.float32)

    def probe(self, name: str, shape: Sequence[int]) -> np.ndarray:
        """The direction a summary is projected on, f32."""
        return self.table("probe:" + name, shape)

    def parameter(self, name: str, shape: Sequence[int]) -> np.ndarray:
        """A model's parameter by its state-dict name, f32: LayerNorm weights near 1, matrices scaled by fan-in."""
        wave, weight, constants = self.wave(name, shape), name.rsplit(".", 1)[-1] == "weight", self.constants
        if len(shape) == 1:
            value = 1.0 + constants["g_ln"] * wave if weight else constants["g_bias"] * wave
        elif weight:
            value = constants["g_weight"] * math.sqrt(2.0 / math.prod(shape[1:])) * wave
        else:
            value = constants["g_token"] * wave
        return value.astype(np.float32)

    def images(self, name: str, shape: Sequence[int]) -> np.ndarray:
        """f32 images whose contrast and brightness change along the flat index."""
        place = np.arange(math.prod(shape), dtype=np.int64).reshape(shape)
        gain = 0.35 + 0.1 * (place // int(self.constants["G1"]) % 11)
        offset = 0.15 * (place // int(self.constants["G2"]) % 7 - 3)
        return (gain * self.wave(name, shape) + offset).astype(np.float32)

    def noise(self, name: str, shape: Sequence[int]) -> np.ndarray:
        """f32 in [0, 1), all different."""
        return (self.cubes(name, math.prod(shape)) / self.modulus).reshape(shape).astype(np.float32)

    def labels(self, name: str, count: int, classes: int) -> np.ndarray:
        """i64[count] in 0..classes-1."""
        return np.floor(self.phase(name, count) / self.modulus * classes).astype(np.int64)
