"""Sine-cosine table and resampling against hand values and a kernel written out in numpy."""

import math

import numpy as np
import pytest
import torch

from stages.lib.models.positions import resample, sincos_2d


def test_sincos__published_values_at_width_768() -> None:
    """recipes 1.4: patch (0,1) and patch (1,0) of a 14 x 14 grid at four channels."""
    table = sincos_2d(768, 14)
    assert table.shape == (196, 768) and table.dtype == torch.float64
    channels = [0, 192, 384, 576]
    np.testing.assert_allclose(table[1, channels], [0.841471, 0.540302, 0.0, 1.0], atol=5e-7)
    np.testing.assert_allclose(table[14, channels], [0.0, 1.0, 0.841471, 0.540302], atol=5e-7)


def by_definition(dim: int, grid: int, swapped: bool = False, interleaved: bool = False) -> np.ndarray:
    """Every entry from its own sine or cosine, one at a time."""
    table = np.empty((grid * grid, dim))
    for place in range(grid * grid):
        coordinates = (place % grid, place // grid)  # column first
        for channel in range(dim):
            half, within = divmod(channel, dim // 2)
            wave, k = divmod(within, dim // 4)
            if interleaved:
                k, wave = divmod(within, 2)
            angle = coordinates[1 - half if swapped else half] * 10000 ** (-k / (dim / 4))
            table[place, channel] = math.cos(angle) if wave else math.sin(angle)
    return table


def test_sincos__every_entry_by_its_definition() -> None:
    """Columns in the first half, sines before cosines; the two usual mistakes do not pass the same comparison."""
    table = sincos_2d(16, 3).numpy()
    np.testing.assert_allclose(table, by_definition(16, 3), atol=1e-14)
    assert np.abs(table - by_definition(16, 3, swapped=True)).max() > 0.5
    assert np.abs(table - by_definition(16, 3, interleaved=True)).max() > 0.5


def test_sincos__width_not_a_multiple_of_4_is_refused() -> None:
    """The message names the width."""
    with pytest.raises(ValueError, match="18"):
        sincos_2d(18, 4)


def cubic(x: float, a: float) -> float:
    """Keys' cubic convolution kernel."""
    x = abs(x)
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def matrix(old: int, new: int, a: float = -0.75, corners: bool = False) -> np.ndarray:
    """f64[new, old]: one line of bicubic resampling, edge samples repeated."""
    weights = np.zeros((new, old))
    for i in range(new):
        source = i * (old - 1) / (new - 1) if corners else (i + 0.5) * old / new - 0.5
        for tap in range(math.floor(source) - 1, math.floor(source) + 3):
            weights[i, min(max(tap, 0), old - 1)] += cubic(source - tap, a)
    return weights


@pytest.mark.parametrize(("old", "new", "extra"), [(4, 6, 2), (6, 4, 1), (3, 8, 0)])
def test_resample__equals_the_written_out_kernel(old: int, new: int, extra: int) -> None:
    """Larger and smaller grids; extra tokens untouched; antialiasing's kernel and aligned corners fail."""
    torch.manual_seed(0)
    positions = torch.randn(1, extra + old * old, 5, dtype=torch.float64)
    result = resample(positions, new, extra)
    assert torch.equal(result[:, :extra], positions[:, :extra])
    grid = positions[0, extra:].numpy().reshape(old, old, 5)

    def difference(m: np.ndarray) -> float:
        wanted = np.einsum("ia,jb,abd->ijd", m, m, grid).reshape(new * new, 5)
        return float(np.abs(result[0, extra:].numpy() - wanted).max())

    assert difference(matrix(old, new)) < 1e-12
    assert difference(matrix(old, new, a=-0.5)) > 1e-3
    assert difference(matrix(old, new, corners=True)) > 1e-3


def test_resample__same_grid_changes_no_bit() -> None:
    """DeiT always resamples, MAE only where the grid differs: the same."""
    positions = torch.randn(1, 38, 7)
    assert torch.equal(resample(positions, 6, 2), positions)


def test_resample__wrong_number_of_extra_tokens_is_refused() -> None:
    """37 entries are 1 + 36; with two extra tokens 35 patches are no square."""
    with pytest.raises(ValueError, match="35"):
        resample(torch.zeros(1, 37, 4), 6, 2)
