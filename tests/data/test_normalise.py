"""Bytes to numbers as torchvision and timm do it."""

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torchvision.transforms.functional import normalize, to_tensor

from stages.lib.data.normalise import IMAGENET_MEAN, IMAGENET_STD, denormalise, normalise

BYTES = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).repeat(2, 3, 1, 1)


def test_normalise__torchvisions_bits() -> None:
    """Every byte value in every channel; the constants are those of config.json."""
    wanted = normalize(to_tensor(BYTES[0].permute(1, 2, 0).numpy()), IMAGENET_MEAN, IMAGENET_STD)
    assert normalise(BYTES).dtype == torch.float32 and all(torch.equal(image, wanted) for image in normalise(BYTES))
    assert (IMAGENET_MEAN, IMAGENET_STD) == (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    assert abs(normalise(BYTES)[0, 0, 0, 0].item() + 0.485 / 0.229) < 1e-6


def test_denormalise__undoes_normalise_and_clamps() -> None:
    """Every byte comes back; a prediction out of range becomes black or white."""
    assert torch.equal(denormalise(normalise(BYTES)), BYTES)
    far = torch.tensor([-99.0, 99.0]).reshape(1, 1, 1, 2).repeat(1, 3, 1, 1)
    assert denormalise(far)[0, 0, 0].tolist() == [0, 255]
