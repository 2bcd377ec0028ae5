"""Model folders: timm alone loads them strictly, the same model gives the same bytes, damage is refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from timm.data import resolve_data_config
from torch import nn

from stages.lib.core.outcome import Refusal
from stages.lib.models import architecture, deit, folder, teacher
from stages.lib.models.mae import MAE
from stages.lib.params.pretrain import Decoder
from stages.lib.params.teacher import RegNetSizes
from stages.lib.params.vit import ViT

VIT = ViT(patch_size=4, width=24, depth=2, heads=3)
TINY = ViT(patch_size=16, width=192, depth=12, heads=3)
THIRD = VIT.model_copy(update={"layer_scale": 1e-4, "class_position": False})
NAMES = ("eins", "zwei", "drei", "vier", "fünf")


def transformer(place: Path, vit: ViT = VIT, size: int = 12, distilled: bool = True) -> nn.Module:
    """Save a student and return it."""
    torch.manual_seed(0)
    model = deit.create(vit, size, 5, distilled)
    name, args = architecture.classifier(vit, size, distilled)
    folder.save(model, place, name, args, size, 0.9, NAMES)
    return model


def regnet(place: Path) -> nn.Module:
    """Save a trained-looking teacher with grouped norms and return it."""
    sizes = RegNetSizes(depth=6, w0=24, wa=24.0, wm=2.0, group_size=8, stem_width=16)
    model = teacher.group_norm_statistics(teacher.create("regnety_002", sizes, 5), 2)
    model(torch.randn(4, 3, 16, 16))
    folder.save(
        model, place, "regnety_002", teacher.model_args(sizes), 16, 0.875, NAMES, licence="cc-by-4.0", notes=["a", "b"]
    )
    return model


CASES: dict[str, Any] = {
    "distilled": lambda place: (transformer(place), 12),
    "plain": lambda place: (transformer(place, distilled=False), 12),
    "odd sizes": lambda place: (transformer(place, ViT(patch_size=7, width=20, depth=1, heads=5), 35), 35),
    "official": lambda place: (transformer(place, TINY, 224), 224),
    "deit 3": lambda place: (transformer(place, THIRD, 12, distilled=False), 12),
    "layer scale and distillation": lambda place: (transformer(place, VIT.model_copy(update={"layer_scale": 0.1})), 12),
    "layer scale alone": lambda place: (
        transformer(place, VIT.model_copy(update={"layer_scale": 0.1}), distilled=False),
        12,
    ),
    "no class position alone": lambda place: (
        transformer(place, VIT.model_copy(update={"class_position": False}), distilled=False),
        12,
    ),
    "official at another size": lambda place: (transformer(place, TINY, 160), 160),
    "regnety": lambda place: (regnet(place), 16),
}


@pytest.mark.parametrize("case", CASES)
def test_save__timm_alone_loads_every_bit_and_the_preprocessing(case: str, tmp_path: Path) -> None:
    """One line of timm gives equal weights (positions not resampled), equal predictions and the data config."""
    place = tmp_path / "model"
    model, size = CASES[case](place)
    loaded = timm.create_model(f"local-dir:{place}", pretrained=True)
    mine, theirs = model.state_dict(), loaded.state_dict()
    assert list(mine) == list(theirs) and all(torch.equal(mine[name], theirs[name]) for name in mine)
    data = resolve_data_config(model=loaded)
    assert tuple(data["input_size"]) == (3, size, size)
    assert (data["interpolation"], data["crop_mode"]) == ("bicubic", "center")
    assert data["crop_pct"] == (0.875 if case == "regnety" else 0.9)
    assert tuple(data["mean"]) == (0.485, 0.456, 0.406) and tuple(data["std"]) == (0.229, 0.224, 0.225)
    assert loaded.num_classes == 5 and loaded.pretrained_cfg["label_names"] == list(NAMES)
    images = torch.randn(2, 3, size, size)
    assert torch.equal(loaded.eval()(images), model.eval()(images))
    ours, config = folder.load(place)
    assert not ours.training and torch.equal(ours(images), loaded(images)) and config["num_classes"] == 5


def test_save__timm_can_put_another_head_on(tmp_path: Path) -> None:
    """`classifier` names what timm has to drop, for both heads; `first_conv` what it adapts to grey images."""
    transformer(tmp_path / "model")
    other = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True, num_classes=3, in_chans=1)
    assert other(torch.randn(1, 1, 12, 12)).shape == (1, 3)


def test_save__same_model_same_bytes_and_nothing_of_the_place(tmp_path: Path) -> None:
    """Two folders are equal byte for byte; another weight makes other bytes; no path is inside."""
    model = transformer(tmp_path / "a")
    transformer(tmp_path / "b")
    for name in (folder.WEIGHTS, folder.CONFIG):
        data = (tmp_path / "a" / name).read_bytes()
        assert data == (tmp_path / "b" / name).read_bytes() and str(tmp_path).encode() not in data
    with torch.no_grad():
        model.head.bias.add_(1)
    assert folder.packed(model.state_dict()) != (tmp_path / "a" / folder.WEIGHTS).read_bytes()


def test_packed__order_and_layout_of_the_tensors_do_not_matter() -> None:
    """A transposed view holds the same numbers."""
    tensor = torch.randn(3, 4)
    one = folder.packed({"b": tensor, "a": torch.ones(2)})
    assert one == folder.packed({"a": torch.ones(2), "b": tensor.t().contiguous().t()})
    assert torch.equal(safetensors.torch.load(one)["b"], tensor)


def test_config__what_timm_needs(tmp_path: Path) -> None:
    """Both classifiers of a distilled model, licence and notes where given, names as people wrote them."""
    transformer(tmp_path / "student")
    regnet(tmp_path / "teacher")
    student, convnet = (folder.config_of(tmp_path / name) for name in ("student", "teacher"))
    assert student["architecture"] == "deit_tiny_distilled_patch16_224"
    assert student["model_args"] == {"img_size": 12, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3}
    assert student["pretrained_cfg"]["classifier"] == ["head", "head_dist"]
    assert student["pretrained_cfg"]["fixed_input_size"] and student["pretrained_cfg"]["pool_size"] is None
    assert convnet["pretrained_cfg"]["pool_size"] == [1, 1] and not convnet["pretrained_cfg"]["fixed_input_size"]
    assert convnet["pretrained_cfg"]["license"] == "cc-by-4.0" and convnet["pretrained_cfg"]["notes"] == ["a", "b"]
    assert "fünf" in (tmp_path / "student" / folder.CONFIG).read_text(encoding="utf-8")


def test_save__class_names_must_be_the_models(tmp_path: Path) -> None:
    """Four names for five classes."""
    model = deit.create(VIT, 12, 5, False)
    with pytest.raises(ValueError, match=r"4 class names .* 5 classes"):
        folder.save(model, tmp_path / "m", *architecture.classifier(VIT, 12, False), 12, 0.9, NAMES[:4])


def test_save_mae__encoder_without_head_and_decoder_beside_it(tmp_path: Path) -> None:
    """timm loads the encoder; both files together are the MAE again; the student starts from them."""
    decoder = Decoder(width=16, depth=1, heads=2)
    mae = MAE(12, VIT, decoder, 0.75)
    folder.save_mae(mae, tmp_path / "mae", *architecture.encoder(VIT, 12), 12, decoder.model_dump())
    encoder, config = folder.load(tmp_path / "mae")
    assert (
        config["num_classes"] == 0 and "label_names" not in config and config["architecture"] == "vit_tiny_patch16_224"
    )
    images = torch.randn(2, 3, 12, 12)
    assert encoder(images).shape == (2, 24)
    state, beside = folder.state(tmp_path / "mae"), folder.state(tmp_path / "mae", "decoder.safetensors")
    assert not state.keys() & beside.keys() and not any(name.startswith("decoder") for name in state)
    again = MAE(12, VIT, Decoder(**json.loads((tmp_path / "mae" / "decoder.json").read_text())), 0.75)
    again.load_state_dict({**state, **beside})
    noise = torch.rand(2, 9)
    assert torch.equal(again(images, noise)[0], mae(images, noise)[0])
    deit.from_mae(deit.create(VIT, 12, 5, True), state)


def test_load__leaves_the_global_generator_alone(tmp_path: Path) -> None:
    """timm initialises before it fills; that must not shift anybody's numbers."""
    transformer(tmp_path / "model")
    torch.manual_seed(4)
    wanted = torch.rand(3)
    torch.manual_seed(4)
    folder.load(tmp_path / "model")
    assert torch.equal(torch.rand(3), wanted)


def spoil_config(place: Path, **changes: Any) -> None:
    """Edit config.json as a person might."""
    config = json.loads((place / folder.CONFIG).read_text())
    config["model_args"].update(changes)
    (place / folder.CONFIG).write_text(json.dumps(config))


def spoil_weights(place: Path, drop: str = "", add: str = "") -> None:
    """Weights with a name less or more."""
    state = {name: tensor for name, tensor in folder.state(place).items() if name != drop}
    (place / folder.WEIGHTS).write_bytes(folder.packed({**state, **({add: torch.ones(1)} if add else {})}))


SPOILT: dict[str, tuple[Any, str]] = {
    "no weights": (lambda place: (place / folder.WEIGHTS).unlink(), "model.safetensors is missing or damaged"),
    "no config": (lambda place: (place / folder.CONFIG).unlink(), "config.json is missing or damaged"),
    "torn weights": (
        lambda place: (place / folder.WEIGHTS).write_bytes(b"x" * 50),
        "model.safetensors is missing or damaged",
    ),
    "torn config": (lambda place: (place / folder.CONFIG).write_text('{"archi'), "config.json is missing or damaged"),
    "foreign config": (lambda place: (place / folder.CONFIG).write_text("{}"), "architecture"),
    "name too few": (lambda place: spoil_weights(place, drop="norm.bias"), "norm.bias"),
    "name too many": (lambda place: spoil_weights(place, add="extra"), "extra"),
    "other depth": (lambda place: spoil_config(place, depth=3), "do not belong together"),
    "other image size": (lambda place: spoil_config(place, img_size=16), "had to change weights"),
    "other patch size": (lambda place: spoil_config(place, patch_size=6), "had to change weights"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_load__damage_and_misfits_are_refused_by_name(case: str, tmp_path: Path) -> None:
    """Also where timm itself would resample positions or patches without a word."""
    spoil, message = SPOILT[case]
    transformer(tmp_path / "model")
    spoil(tmp_path / "model")
    with pytest.raises(Refusal, match=message):
        folder.load(tmp_path / "model")


def test_save__a_failure_leaves_the_old_folder_and_no_rest(tmp_path: Path) -> None:
    """Replacing works, and what stood there before is gone; a file that cannot be written changes nothing."""
    place = tmp_path / "model"
    model = transformer(place)
    (place / "stray").write_text("old")
    folder.save(model, place, *architecture.classifier(VIT, 12, True), 12, 0.9, NAMES, beside={"more.txt": b"new"})
    assert sorted(path.name for path in place.iterdir()) == ["config.json", "model.safetensors", "more.txt"]
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    with pytest.raises(TypeError):
        folder.write(place, {**before, "more.txt": 5})  # type: ignore[dict-item]
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
