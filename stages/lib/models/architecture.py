"""Which timm architecture a transformer is, so that its folder loads with one line of timm."""

from typing import Any

from stages.lib.params.vit import ViT

# (family, patch size, width, depth, heads, image size) -> timm's registered name
OFFICIAL: dict[tuple[str, int, int, int, int, int], str] = {
    ("deit", 16, 192, 12, 3, 224): "deit_tiny_patch16_224",
    ("deit", 16, 384, 12, 6, 224): "deit_small_patch16_224",
    ("deit", 16, 768, 12, 12, 224): "deit_base_patch16_224",
    ("deit", 16, 768, 12, 12, 384): "deit_base_patch16_384",
    ("deit_distilled", 16, 192, 12, 3, 224): "deit_tiny_distilled_patch16_224",
    ("deit_distilled", 16, 384, 12, 6, 224): "deit_small_distilled_patch16_224",
    ("deit_distilled", 16, 768, 12, 12, 224): "deit_base_distilled_patch16_224",
    ("deit_distilled", 16, 768, 12, 12, 384): "deit_base_distilled_patch16_384",
    ("deit3", 16, 384, 12, 6, 224): "deit3_small_patch16_224",
    ("deit3", 16, 384, 12, 6, 384): "deit3_small_patch16_384",
    ("deit3", 16, 512, 12, 8, 224): "deit3_medium_patch16_224",
    ("deit3", 16, 768, 12, 12, 224): "deit3_base_patch16_224",
    ("deit3", 16, 768, 12, 12, 384): "deit3_base_patch16_384",
    ("deit3", 16, 1024, 24, 16, 224): "deit3_large_patch16_224",
    ("deit3", 16, 1024, 24, 16, 384): "deit3_large_patch16_384",
    ("deit3", 14, 1280, 32, 16, 224): "deit3_huge_patch14_224",
    ("vit", 16, 768, 12, 12, 224): "vit_base_patch16_224",
    ("vit", 16, 1024, 24, 16, 224): "vit_large_patch16_224",
    ("vit", 14, 1280, 32, 16, 224): "vit_huge_patch14_224",
}
TINY = {
    "deit": "deit_tiny_patch16_224",
    "deit_distilled": "deit_tiny_distilled_patch16_224",
    "deit3": "deit3_small_patch16_224",
    "vit": "vit_tiny_patch16_224",
}


def classifier(vit: ViT, image_size: int, distilled: bool) -> tuple[str, dict[str, Any]]:
    """(timm name, model_args) of a DeiT, with or without distillation token, or of a DeiT III."""
    if vit.layer_scale and not vit.class_position:
        assert not distilled, "timm has no DeiT III with a distillation token"
        name, arguments = _named("deit3", vit, image_size)
        return name, {**arguments, "init_values": vit.layer_scale}
    name, arguments = _named("deit_distilled" if distilled else "deit", vit, image_size)
    scaled = {"init_values": vit.layer_scale} if vit.layer_scale else {}
    return name, {**arguments, **scaled, **({} if vit.class_position else {"no_embed_class": True})}


def encoder(vit: ViT, image_size: int) -> tuple[str, dict[str, Any]]:
    """(timm name, model_args) of an MAE encoder, which goes by ViT's names; build it with num_classes 0."""
    return _named("vit", vit, image_size)


def _named(family: str, vit: ViT, image_size: int) -> tuple[str, dict[str, Any]]:
    """The official name where every size is official, else the family's tiny name with every size overridden."""
    name = OFFICIAL.get((family, vit.patch_size, vit.width, vit.depth, vit.heads, image_size))
    if name:
        return name, {}
    sizes = {"patch_size": vit.patch_size, "embed_dim": vit.width, "depth": vit.depth, "num_heads": vit.heads}
    return TINY[family], {"img_size": image_size, **sizes}
