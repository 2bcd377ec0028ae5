"""Names for config.json: timm's own where it has one, and always the model we mean."""

import pytest
import timm
import torch

from stages.lib.models import deit
from stages.lib.models.architecture import OFFICIAL, classifier, encoder
from stages.lib.params.vit import ViT


@pytest.mark.parametrize("entry", OFFICIAL, ids=lambda entry: OFFICIAL[entry])
def test_official__timm_builds_exactly_these_sizes(entry: tuple[str, int, int, int, int, int]) -> None:
    """The name alone gives patch, width, depth, heads and image size; distilled where it says so."""
    family, patch, width, depth, heads, image_size = entry
    sizes = {"patch_size": patch, "width": width, "depth": depth, "heads": heads}
    with torch.device("meta"):
        model = timm.create_model(OFFICIAL[entry])
    third = (
        {"layer_scale": 1e-6, "class_position": False} if family == "deit3" else {}
    )  # timm begins lower than published
    assert deit.sizes(model) == ViT.model_validate({**sizes, **third})
    assert model.patch_embed.img_size == (image_size, image_size)
    assert deit.is_distilled(model) == ("distilled" in OFFICIAL[entry])


def test_architecture__one_size_off_is_the_tiny_name_with_overrides() -> None:
    """DeiT-Ti at 192 pixels is no official model."""
    vit = ViT(patch_size=16, width=192, depth=12, heads=3)
    sizes = {"patch_size": 16, "embed_dim": 192, "depth": 12, "num_heads": 3}
    assert classifier(vit, 224, False) == ("deit_tiny_patch16_224", {})
    assert classifier(vit, 224, True) == ("deit_tiny_distilled_patch16_224", {})
    assert classifier(vit, 192, True) == ("deit_tiny_distilled_patch16_224", {"img_size": 192, **sizes})
    assert encoder(vit, 224) == ("vit_tiny_patch16_224", {"img_size": 224, **sizes})


def test_architecture__of_deit_3() -> None:
    """timm's family where both of its changes are there, else DeiT's with what differs; LayerScale's beginning is said."""
    small = ViT(patch_size=16, width=384, depth=12, heads=6, layer_scale=1e-4, class_position=False)
    sizes = {"patch_size": 16, "embed_dim": 384, "depth": 12, "num_heads": 6}
    assert classifier(small, 224, False) == ("deit3_small_patch16_224", {"init_values": 1e-4})
    assert classifier(small, 192, False) == ("deit3_small_patch16_224", {"img_size": 192, **sizes, "init_values": 1e-4})
    scaled, bare = (small.model_copy(update=change) for change in ({"class_position": True}, {"layer_scale": 0.0}))
    assert classifier(scaled, 224, True) == ("deit_small_distilled_patch16_224", {"init_values": 1e-4})
    assert classifier(bare, 224, False) == ("deit_small_patch16_224", {"no_embed_class": True})
