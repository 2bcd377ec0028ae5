"""Published layouts: every official model's names and shapes, and round trips through files fabricated in those layouts."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from stages.lib.core.outcome import Refusal
from stages.lib.models import architecture, deit, folder, published, tensors
from stages.lib.models.mae import MAE
from stages.lib.params.pretrain import Decoder
from stages.lib.params.vit import ViT
from tests.golden_cases.built import bare

VIT = ViT(patch_size=4, width=24, depth=2, heads=3)
SMALL = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}

# timm's name -> (layout, parameters of the published file as counted from the official code)
OFFICIAL = {
    "deit_tiny_patch16_224": ("deit", 5_717_416),
    "deit_small_patch16_224": ("deit", 22_050_664),
    "deit_base_patch16_224": ("deit", 86_567_656),
    "deit_base_patch16_384": ("deit", 86_859_496),
    "deit_tiny_distilled_patch16_224": ("deit-distilled", 5_910_800),
    "deit_small_distilled_patch16_224": ("deit-distilled", 22_436_432),
    "deit_base_distilled_patch16_224": ("deit-distilled", 87_338_192),
    "deit_base_distilled_patch16_384": ("deit-distilled", 87_630_032),
    "deit3_small_patch16_224": ("deit-3", 22_059_496),
    "deit3_small_patch16_384": ("deit-3", 22_205_416),
    "deit3_medium_patch16_224": ("deit-3", 38_849_512),
    "deit3_base_patch16_224": ("deit-3", 86_585_320),
    "deit3_base_patch16_384": ("deit-3", 86_877_160),
    "deit3_large_patch16_224": ("deit-3", 304_374_760),
    "deit3_large_patch16_384": ("deit-3", 304_763_880),
    "deit3_huge_patch14_224": ("deit-3", 632_126_440),
}
MAE_ENCODERS = {
    "vit_base_patch16_224": 85_798_656,
    "vit_large_patch16_224": 303_301_632,
    "vit_huge_patch14_224": 630_764_800,
}
MAE_FINETUNED = {
    "vit_base_patch16_224": 86_567_656,
    "vit_large_patch16_224": 304_326_632,
    "vit_huge_patch14_224": 632_045_800,
}


def weightless(name: str, **arguments: Any) -> dict[str, Tensor]:
    """Names and shapes of timm's model; no memory."""
    return dict(timm.create_model(name, device="meta", **arguments).state_dict())


def size(state: dict[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in state.values())


def check(name: str, theirs: dict[str, Tensor], layout: str, parameters: int, **arguments: Any) -> None:
    """Recognised, measured and named as timm names it, and the names come back."""
    file = published.to_published(theirs)
    assert published.layout_of(file) == layout and size(file) == parameters
    assert list(published.to_timm(file)) == list(published.to_timm(theirs)) or set(file) != set(theirs)
    assert {key: tensor.shape for key, tensor in published.to_timm(file).items()} == {
        key: tensor.shape for key, tensor in theirs.items()
    }
    vit, image_size, _ = published.sizes_of(file)
    found, more = published._named(layout, vit, image_size)  # type: ignore[arg-type]
    assert (found, more) == (name, arguments)


@pytest.mark.parametrize("name", OFFICIAL)
def test_official__deit_and_deit_3(name: str) -> None:
    check(name, weightless(name), *OFFICIAL[name])


@pytest.mark.parametrize("name", MAE_ENCODERS)
def test_official__mae_encoder_and_its_fine_tuned_form(name: str) -> None:
    check(name, weightless(name, num_classes=0), "mae-encoder", MAE_ENCODERS[name])
    pooled = {"global_pool": "avg"}
    check(name, weightless(name, num_classes=1000, **pooled), "mae-finetuned", MAE_FINETUNED[name], **pooled)
    assert "norm.weight" not in weightless(name, **pooled)


def shapes(listed: list[list[Any]]) -> dict[str, Tensor]:
    """Tensors without memory."""
    return dict(bare([(name, shape) for name, shape in listed]).state_dict())


def test_official__key_lists_of_the_published_code(shared: Path) -> None:
    """Names, order and shapes as the official constructors give them."""
    distilled = json.loads((shared / "golden/05_deit_keys_official.json").read_text())["models"]
    for name, told in distilled.items():
        file = shapes(told["state_dict"])
        assert list(published.to_published(weightless(name))) == [key for key, _ in told["state_dict"]]
        assert {key: t.shape for key, t in weightless(name).items()} == {key: t.shape for key, t in file.items()}
    for name, told in json.loads((shared / "golden/01_mae_keys.json").read_text())["models"].items():
        file = shapes(told["state_dict"])
        assert published.layout_of(file) == "mae-pretrain"
        shuffled = {key: file[key] for key in sorted(file)}
        assert list(published.to_published(shuffled)) == [key for key, _ in told["state_dict"]]
        encoder, vit = published.to_timm(file), published.sizes_of(file)[0]
        assert size(encoder) == MAE_ENCODERS[name.replace("mae_", "") + "_224"]
        with torch.device("meta"):
            decoder = Decoder(width=512, depth=8, heads=16)
            ours = MAE(224, vit, decoder, 0.75)
        assert [[key, list(t.shape)] for key, t in ours.state_dict().items()] == told["state_dict"]


def lively(model: nn.Module) -> nn.Module:
    """Weights large enough that a wrong one shows."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.2)
    return model.eval()


def as_published(path: Path, state: dict[str, Tensor]) -> Path:
    """A .pth as the papers' authors publish it."""
    torch.save({"model": state, "args": argparse.Namespace(model="x")}, path)
    return path


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "deit": ("deit_tiny_patch16_224", {}),
    "deit-distilled": ("deit_tiny_distilled_patch16_224", {}),
    "deit-3": ("deit3_small_patch16_224", {}),
    "mae-finetuned": ("vit_tiny_patch16_224", {"global_pool": "avg"}),
    "mae-encoder": ("vit_tiny_patch16_224", {"num_classes": 0}),
}


@pytest.mark.parametrize("layout", CASES)
def test_read__a_published_file_answers_as_its_authors_model(tmp_path: Path, layout: str) -> None:
    name, more = CASES[layout]
    theirs = lively(timm.create_model(name, **{**SMALL, **more}))
    file = published.to_published(theirs.state_dict())
    if layout == "deit-3":
        assert "blocks.0.gamma_1" in file and not any("ls1" in key for key in file)
    path = as_published(tmp_path / "theirs.pth", file)
    assert published.read(path, tmp_path / "model", "cc-by-nc-4.0", heads=3) == layout
    ours = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True).eval()
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(ours(images), theirs(images))
    config = folder.config_of(tmp_path / "model")
    assert config["pretrained_cfg"]["license"] == "cc-by-nc-4.0" and "label_names" not in config
    assert config["pretrained_cfg"]["mean"] == [0.485, 0.456, 0.406]  # timm's own vit_* would say 0.5
    assert config["pretrained_cfg"]["crop_pct"] == (1.0 if layout in ("deit-3", "mae-encoder") else 0.875)
    for ending in (".pth", ".safetensors"):
        back = tmp_path / f"back{ending}"
        assert published.write(tmp_path / "model", back) == layout
        again = tensors.read(back)
        assert again.keys() == file.keys() and all(torch.equal(again[key], file[key]) for key in file)
    assert list(torch.load(tmp_path / "back.pth", weights_only=True)["model"]) == list(file)


def test_read__an_official_size_goes_by_its_official_name(tmp_path: Path) -> None:
    theirs = timm.create_model("deit_tiny_distilled_patch16_224")
    published.read(as_published(tmp_path / "t.pth", theirs.state_dict()), tmp_path / "model", "Apache-2.0")
    config = folder.config_of(tmp_path / "model")
    assert config["architecture"] == "deit_tiny_distilled_patch16_224" and config["model_args"] == {}


def test_read__an_mae_with_its_decoder_is_what_pretraining_writes(tmp_path: Path) -> None:
    decoder = Decoder(width=16, depth=1, heads=2)
    torch.manual_seed(0)
    theirs = MAE(16, VIT, decoder, 0.75)
    path = as_published(tmp_path / "mae_pretrain_vit_base_full.pth", dict(theirs.state_dict()))
    assert published.read(path, tmp_path / "theirs", "cc-by-nc-4.0", 3, 2) == "mae-pretrain"
    folder.save_mae(theirs, tmp_path / "ours", *architecture.encoder(VIT, 16), 16, decoder.model_dump(), "cc-by-nc-4.0")
    names = sorted(path.name for path in (tmp_path / "ours").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "theirs").iterdir()) and "decoder.json" in names
    assert all((tmp_path / "ours" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes() for name in names)
    deit.from_mae(deit.create(VIT, 16, 5, True), folder.state(tmp_path / "theirs"))  # a student starts from it
    published.write(tmp_path / "theirs", tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
    assert list(back) == list(theirs.state_dict())
    assert all(torch.equal(back[key], tensor) for key, tensor in theirs.state_dict().items())


def test_read__what_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    state = dict(timm.create_model("deit_tiny_patch16_224", **SMALL).state_dict())

    def refused(changed: dict[str, Tensor], **more: int) -> str:
        with pytest.raises(Refusal) as refusal:
            published.read(as_published(tmp_path / "t.pth", changed), tmp_path / "model", "x", **more)
        assert not (tmp_path / "model").exists()
        return str(refusal.value)

    assert "no published model is 24 wide" in refused(state)
    assert "strange has no place" in refused({**state, "strange": torch.zeros(1)}, heads=3)
    fewer = {key: tensor for key, tensor in state.items() if key != "blocks.1.attn.proj.bias"}
    assert "blocks.1.attn.proj.bias is missing" in refused(fewer, heads=3)
    assert "no DeiT, DeiT III or MAE" in refused({"stem.conv.weight": torch.zeros(1)}, heads=3)


def test_write__needs_an_ending_it_knows(tmp_path: Path) -> None:
    model = deit.create(VIT, 16, 5, False)
    folder.save(model, tmp_path / "m", *architecture.classifier(VIT, 16, False), 16, 0.9, "abcde")
    with pytest.raises(Refusal, match=r"as .safetensors or .pth"):
        published.write(tmp_path / "m", tmp_path / "m.bin")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
