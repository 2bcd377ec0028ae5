"""In which number format a network computes. Science: it moves bits."""

from typing import Literal

Precision = Literal["fp32", "bf16"]
"""fp32: single precision throughout. bf16: matrix products and convolutions in bfloat16 (torch's autocast); weights, the
optimizer, norms' statistics and the loss stay in single precision."""
