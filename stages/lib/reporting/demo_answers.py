"""What the models say of one image: every head's most likely classes, where its tokens look, what the autoencoder paints.

For the demo page (stages/demo_page.py). Numbers and pictures for people, one image at a time on the CPU; nothing here measures.
"""

import base64
import io
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from stages.lib.core.outcome import Refusal
from stages.lib.data.decode import FORMATS, decode
from stages.lib.data.preparation import Preparation, preparation_of
from stages.lib.data.randomness import Purpose, generator
from stages.lib.models import folder, mae_folder, outputs
from stages.lib.models.attention import attention
from stages.lib.models.mae import MAE, patchify, unpatchify, visible

LARGEST_BYTES, LARGEST_PIXELS = 20 << 20, 50_000_000
"""Of an image file, and of the image in it: 150 MB once decoded."""
SHOWN_CLASSES, THUMBNAIL = 5, 112
TOKENS = ("Class token", "Distillation token")
HEADS = {"class_logits": TOKENS[0], "distillation_logits": TOKENS[1], "fused_logits": "Both: mean of their logits"}
AMBER, MOST_AMBER = (255, 170, 0), 0.75
"""Colour of attention, to be seen on black and on white; how much of it covers the patch that is looked at most."""
LEAST_RATIO, LARGEST_RATIO = 0.05, 0.98
DRAWS = 1 << 16
"""Masks a person can ask for."""
ORIENTATION = 0x0112  # EXIF tag


@dataclass(frozen=True)
class Classifier:
    """An exported model, and how it wants images."""

    name: str
    network: nn.Module
    preparation: Preparation
    labels: tuple[str, ...]
    """One a class, or none where nobody knows them."""

    def label(self, index: int) -> str:
        """Of a class."""
        return self.labels[index] if self.labels else f"class {index}"


@dataclass(frozen=True)
class Painter:
    """The masked autoencoder."""

    mae: MAE
    preparation: Preparation
    norm_pix: bool


def classifier(path: Path) -> Classifier:
    """From an exported folder, through timm. Raises Refusal."""
    network, config = folder.load(path)
    labels = tuple(str(name) for name in config.get("label_names", ()))
    preparation = preparation_of(config["pretrained_cfg"], path / folder.CONFIG)
    return Classifier(path.name, network, preparation, labels if len(labels) == network.num_classes else ())


def painter(path: Path, norm_pix: bool) -> Painter:
    """From the folder `pretrain` left: exported is its encoder alone. Raises Refusal."""
    mae = mae_folder.load(path, 0.5)
    return Painter(mae, preparation_of(folder.config_of(path)["pretrained_cfg"], path / folder.CONFIG), norm_pix)


def opened(data: bytes, upright: bool) -> Image.Image:
    """An image file -> RGB, as ingestion would read it. upright: EXIF's orientation is applied. Raises Refusal in a sentence."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow only warns about is bounded in the next lines
            with io.BytesIO(data) as file, Image.open(file, formats=FORMATS) as image:
                width, height = image.size
                turned = image.getexif().get(ORIENTATION, 1) if upright else 1
            if width * height > LARGEST_PIXELS:
                raise Refusal(f"The image has {width} x {height} pixels; more than {LARGEST_PIXELS:,} are not taken.")
            return decode(data, turned if turned in range(1, 9) else 1)
    except Refusal:
        raise
    except Exception as error:  # Pillow's decoders raise anything at all on damaged files
        raise Refusal(
            f"This is no image that can be read ({type(error).__name__}); {', '.join(FORMATS)} are."
        ) from None


class Answers:
    """The models, asked by one thread at a time."""

    def __init__(self, asked: Classifier, painting: Painter | None) -> None:
        self.asked, self.painting = asked, painting
        self.busy = threading.Lock()

    def classes(self, image: Image.Image) -> dict[str, Any]:
        """What the page shows of an image; every picture a PNG as a data: address.

        {"image": what the model gets, "size": its side in pixels, "heads": [{"name", "top": [{"label", "probability"}]}],
        "attention": [{"name", "share": of the token's attention that goes to patches, 0..1, "picture"}]}.
        """
        asked = self.asked
        pixels = torch.from_numpy(asked.preparation.view(image))[None]
        with self.busy, torch.inference_mode():
            images = asked.preparation.normalise(pixels)
            logits = outputs.ours(asked.network, images)
            maps = attention(asked.network, images)[0] if isinstance(asked.network, VisionTransformer) else None
        seen = pixels[0].permute(1, 2, 0).numpy()
        return {
            "image": picture(seen),
            "size": asked.preparation.size,
            "heads": [
                {"name": "The model" if maps is None else HEADS[name], "top": self._top(values[0])}
                for name, values in zip(outputs.names(asked.network), logits, strict=True)
            ],
            "attention": []
            if maps is None
            else [
                {"name": name, "share": float(one.sum()), "picture": picture(lit(seen, one.numpy()))}
                for name, one in zip(TOKENS, maps, strict=False)
            ],
        }

    def _top(self, logits: Tensor) -> list[dict[str, Any]]:
        """The most likely classes first."""
        probabilities = logits.float().softmax(-1)
        best = probabilities.topk(min(SHOWN_CLASSES, len(probabilities)))
        return [
            {"label": self.asked.label(index), "probability": value}
            for value, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]

    def painted(self, image: Image.Image, ratio: float, draw: int) -> dict[str, Any]:
        """{"hidden", "patches", "loss", "seen": picture, "painted": picture}: `ratio` of the patches hidden by mask number `draw`.

        loss: mean squared error over hidden patches, as pretraining counts it. Raises Refusal without an autoencoder, or where the
        ratio or the draw is none.
        """
        if self.painting is None:
            raise Refusal(
                "There is no masked autoencoder in data/models/mae to paint with: `dvc repro pretrain` makes one."
            )
        if not (LEAST_RATIO <= ratio <= LARGEST_RATIO and 0 <= draw < DRAWS):
            raise Refusal(
                f"A mask ratio of {ratio:g} and mask {draw}: a ratio lies in {LEAST_RATIO:g}..{LARGEST_RATIO:g}, "
                f"a mask in 0..{DRAWS - 1}."
            )
        mae, preparation = self.painting.mae, self.painting.preparation
        pixels = torch.from_numpy(preparation.view(image))[None]
        with self.busy, torch.inference_mode():
            return _painted(mae, preparation, pixels, ratio, draw, self.painting.norm_pix)


def _painted(
    mae: MAE, preparation: Preparation, pixels: Tensor, ratio: float, draw: int, norm_pix: bool
) -> dict[str, Any]:
    """Of one image, u8[1,3,H,W] of the size the autoencoder was trained on."""
    images = preparation.normalise(pixels)
    patches = mae.pos_embed.shape[1] - 1
    mae.keep = min(max(visible(patches, ratio), 1), patches - 1)
    noise = torch.from_numpy(generator(draw, 0, 0, Purpose.NOISE).random((1, patches), np.float32))
    predicted, mask = mae(images, noise)
    target = patchify(images, mae.patch_size)
    mean, deviation = target.mean(-1, keepdim=True), (target.var(-1, keepdim=True) + 1e-6).sqrt()
    wanted = (target - mean) / deviation if norm_pix else target
    loss = float(((predicted - wanted) ** 2).mean(-1)[mask.bool()].mean())
    if norm_pix:  # such a model predicts patches of mean 0 and variance 1: put back what it never saw
        predicted = predicted * deviation + mean
    hidden = mask[..., None].bool()
    found = [torch.where(hidden, filling, target) for filling in (torch.zeros_like(target), predicted)]
    seen, painted = (picture(_pixels(unpatchify(one, mae.patch_size), preparation)) for one in found)
    return {"hidden": int(mask.sum()), "patches": patches, "loss": loss, "seen": seen, "painted": painted}


def _pixels(images: Tensor, preparation: Preparation) -> np.ndarray:
    """f32[1, 3, H, W] normalised -> u8[H, W, 3]."""
    mean, std = torch.tensor(preparation.mean).view(3, 1, 1), torch.tensor(preparation.std).view(3, 1, 1)
    return ((images[0] * std + mean) * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()


def lit(seen: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """u8[H, W, 3] and attention f[rows, columns] -> the image under amber, as much as each patch is looked at."""
    strength = weights / max(float(weights.max()), 1e-12)
    rows, columns = (side // count for side, count in zip(seen.shape[:2], weights.shape, strict=True))
    share = MOST_AMBER * np.kron(strength, np.ones((rows, columns)))[..., None]
    return (seen * (1 - share) + np.array(AMBER) * share).round().astype(np.uint8)


def thumbnail(image: Image.Image) -> str:
    """A small picture of it, as a data: address."""
    small = image.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    return picture(np.asarray(small))


def picture(pixels: np.ndarray) -> str:
    """u8[H, W, 3] -> a PNG as a data: address."""
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, format="PNG")
        return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
