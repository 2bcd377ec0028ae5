"""What each block's schema rules out on its own."""

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError
from timm.models.regnet import generate_regnet, model_cfgs

from stages.lib.core import explain, load
from stages.lib.params.export import Export
from stages.lib.params.optimizer import Optimizer, Schedule
from stages.lib.params.pretrain import Pretrain
from stages.lib.params.shard import Shard
from stages.lib.params.sources import Source, Sources
from stages.lib.params.teacher import RegNetSizes, Teacher
from stages.lib.params.train import Train
from stages.lib.params.transfer import Transfer
from stages.lib.params.vit import ViT
from tests.conftest import ROOT

DEFAULT: dict[str, Any] = load.parse((ROOT / "params.yaml").read_text())
VIT = {"patch_size": 4, "width": 96, "depth": 4, "heads": 4}


def changed(values: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A copy with some keys changed; a__b is the key b of a."""
    copy = {key: dict(value) if isinstance(value, dict) else value for key, value in values.items()}
    for key, value in changes.items():
        *block, last = key.split("__")
        (copy[block[0]] if block else copy)[last] = value
    return copy


@pytest.mark.parametrize(
    ("schema", "values", "changes", "said"),
    [
        (ViT, VIT, {"heads": 5}, "width 96 is not a multiple of heads 5"),
        (ViT, VIT, {"width": 6, "heads": 3}, "width 6 is not a multiple of 4"),
        (
            Train,
            DEFAULT["train"],
            {"views__image_size": 18},
            "views.image_size 18 is not a multiple of model.patch_size 4",
        ),
        (Train, DEFAULT["train"], {"teacher": "none"}, "needs teacher: teacher"),
        (
            Train,
            DEFAULT["train"],
            {"labels": "stored", "teacher": "none", "distill": "none"},
            "stored needs teacher: teacher",
        ),
        (Train, DEFAULT["train"], {"labels": "stored", "distill": "soft"}, "needs labelling.top_k of at least 1"),
        (Train, DEFAULT["train"], {"labels": "kept"}, "labels"),
        (Train, DEFAULT["train"], {"labelling__precision": "fp16"}, "labelling.precision"),
        (Train, DEFAULT["train"], {"labelling__top_k": 65536}, "labelling.top_k"),
        (Train, DEFAULT["train"], {"loss": "bce"}, "loss bce needs label_smoothing 0"),
        (Train, DEFAULT["train"], {"select": "ema"}, "select: ema needs ema_decay above 0"),
        (Train, DEFAULT["train"], {"divergence": {"rewinds": -1}}, "greater than or equal to 0"),
        (Pretrain, DEFAULT["pretrain"], {"divergence": {"lr_factor": 1.0}}, "less than 1"),
        (Transfer, DEFAULT["transfer"], {"select": "ema"}, "select: ema needs ema_decay above 0"),
        (Teacher, DEFAULT["teacher"], {"select": "ema"}, "select: ema needs ema_decay above 0"),
        (Teacher, DEFAULT["teacher"], {"norm_group": 48}, "norm_group 48 does not divide views.batch_size 64"),
        (Teacher, DEFAULT["teacher"], {"optimizer__layer_decay": 0.75}, "layer_decay is for transformers"),
        (Teacher, DEFAULT["teacher"], {"architecture": "resnet50"}, "architecture"),
        (Pretrain, DEFAULT["pretrain"], {"image_size": 18}, "image_size 18 is not a multiple of model.patch_size 4"),
        (Pretrain, DEFAULT["pretrain"], {"decoder__heads": 5}, "is not a multiple of decoder.heads 5"),
        (Pretrain, DEFAULT["pretrain"], {"mask_ratio": 0.99}, "mask_ratio 0.99 leaves none of 16 patches visible"),
    ],
)
def test_block__rules_out(schema: type[BaseModel], values: dict[str, Any], changes: dict[str, Any], said: str) -> None:
    schema.model_validate(values)
    with pytest.raises(ValidationError) as caught:
        schema.model_validate(changed(values, **changes))
    assert said in str(caught.value)


def test_schedule__whole_epochs_and_a_warmup_rate_belong_to_deit_epoch() -> None:
    Schedule(kind="mae-step", warmup_epochs=0.5, min_lr=0.0)
    Schedule(kind="deit-epoch", warmup_epochs=5, min_lr=1e-5, warmup_lr=1e-6)
    with pytest.raises(ValidationError, match=r"warmup_epochs 0\.5 must be whole"):
        Schedule(kind="deit-epoch", warmup_epochs=0.5, min_lr=0.0)
    with pytest.raises(ValidationError, match="warmup_lr is for kind deit-epoch"):
        Schedule(kind="mae-step", warmup_epochs=5, min_lr=0.0, warmup_lr=1e-6)


def test_optimizer__betas_come_from_a_list_and_stay_strict() -> None:
    plain = {"name": "adamw", "lr": 1e-3, "lr_per": 256, "weight_decay": 0, "decay_tokens": "none"}
    assert Optimizer.model_validate({**plain, "betas": [0.9, 0.95]}).betas == (0.9, 0.95)
    for betas in ([0.9], [0.9, 1.0], ["0.9", 0.95], 0.9):
        with pytest.raises(ValidationError, match="betas"):
            Optimizer.model_validate({**plain, "betas": betas})


@pytest.mark.parametrize("name", ["digits-0-6", "cifar10", "1k"])
def test_set_names__good(name: str) -> None:
    assert Sources.model_validate({name: {"layout": "folder", "path": "x"}}).root[name].embedded is None


@pytest.mark.parametrize("name", ["Digits", "a_b", "a/b", "-a", "", "a" * 41])
def test_set_names__bad(name: str) -> None:
    with pytest.raises(ValidationError):
        Sources.model_validate({name: {"layout": "folder", "path": "x"}})


def test_sources__none_or_an_unknown_layout() -> None:
    with pytest.raises(ValidationError):
        Sources.model_validate({})
    with pytest.raises(ValidationError, match="layout"):
        Source.model_validate({"layout": "parquet", "path": "x"})


def elsewhere(source: str, **changes: Any) -> dict[str, Any]:
    """The default teacher, taken from somewhere."""
    return {**DEFAULT["teacher"], "source": source, "sha256": "a5fe301d", "licence": "Apache-2.0", **changes}


@pytest.mark.parametrize(
    ("digits", "fits"), [("a5fe301d", True), ("0" * 64, True), ("a5fe301", False), ("A5FE301D", False)]
)
def test_teacher__takes_a_digest_or_its_first_eight_digits(digits: str, fits: bool) -> None:
    values = elsewhere("teacher.pth", sha256=digits)
    if fits:
        assert Teacher.model_validate(values).sha256 == digits
    else:
        with pytest.raises(ValidationError, match="sha256"):
            Teacher.model_validate(values)


@pytest.mark.parametrize(
    "source", ["theirs/w.pth", "/abs/w.safetensors", "./timm/w.pth", "https://host/w.pth?x=1", "s3://bucket/a/w.pth"]
)
def test_teacher__sources(source: str) -> None:
    assert Teacher.model_validate(elsewhere(source)).source == source


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("http://host/w.pth", "neither https://host/file nor s3://bucket/key"),
        ("https://", "neither https"),
        ("s3://bucket", "neither https"),
        ("file:///etc/w.pth", "a local file is a path"),
        ("timm/regnety_160", "no name on timm's hub"),
        ("timm/../w", "a local file is ./timm/../w"),
    ],
)
def test_teacher__other_sources_are_refused(source: str, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Teacher.model_validate(elsewhere(source))


SMALLER = {"short_side": 320, "quality": 90, "subsampling": "4:4:4"}


def test_store__is_original_or_a_block_and_part_of_a_runs_identity() -> None:
    plain = {"images_per_shard": 8, "seed": 0}
    assert Shard.model_validate(plain) == Shard.model_validate(plain | {"store": "original"})
    shard = Shard.model_validate(plain | {"store": SMALLER})
    assert shard.store is not None and shard.store.short_side == 320
    assert shard.model_dump(mode="json") == plain | {"store": SMALLER}


@pytest.mark.parametrize(
    ("store", "said"),
    [
        ("orignal", "shard.store: 'orignal' is neither `original` nor a block such as {short_side: 320, "),
        (None, "shard.store: empty (null) is neither `original`"),
        (
            SMALLER | {"quality": 101},
            "shard.store.quality is 101; allowed: a whole number of at least 1 and of at most 100.",
        ),
        (SMALLER | {"short_side": 0}, "shard.store.short_side is 0; allowed: a whole number of at least 1"),
        (SMALLER | {"subsampling": "4:1:1"}, "shard.store.subsampling is '4:1:1'; allowed: 4:4:4, 4:2:2 or 4:2:0."),
        (SMALLER | {"qualty": 1}, "shard.store.qualty is an unknown key. Did you mean 'quality'?"),
        ({"short_side": 320, "quality": 90}, "shard.store.subsampling is missing; it must be 4:4:4, 4:2:2 or 4:2:0."),
    ],
)
def test_store__another_is_refused_in_plain_words(store: object, said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Shard.model_validate({"images_per_shard": 8, "seed": 0, "store": store})
    (line,) = explain.problems(caught.value, Shard, ("shard",))
    assert said in line


@pytest.mark.parametrize("key", ["sha256", "licence"])
def test_teacher__what_comes_from_elsewhere_is_named_by_digest_and_licence(key: str) -> None:
    with pytest.raises(ValidationError, match=f"source w.pth needs {key}"):
        Teacher.model_validate(elsewhere("w.pth", **{key: None}))
    Teacher.model_validate(elsewhere("train", **{key: None}))  # the control: trained here it needs neither


def test_teacher__a_name_on_timms_hub_is_the_architecture() -> None:
    named = elsewhere("timm/regnety_160.deit_in1k", architecture="regnety_160", sizes=None)
    Teacher.model_validate(named)
    for changes in ({"architecture": "regnety_080"}, {"sizes": DEFAULT["teacher"]["sizes"]}):
        with pytest.raises(ValidationError, match="is a regnety_160 with its own sizes"):
            Teacher.model_validate({**named, **changes})


@pytest.mark.parametrize(
    ("formats", "said"),
    [
        (["onnx"], "formats needs timm"),
        (["timm", "timm"], "names one twice"),
        ([], "formats"),
        (["timm", "tf"], "formats"),
    ],
)
def test_export__formats(formats: list[str], said: str) -> None:
    values = {"formats": ["timm", "onnx", "torch-export"], "parity_images": 32, "parity_tolerance": 1e-4}
    Export.model_validate(values)
    with pytest.raises(ValidationError, match=said):
        Export.model_validate({**values, "formats": formats})
    with pytest.raises(ValidationError, match="parity_images"):
        Export.model_validate({**values, "parity_images": 31})


@pytest.mark.parametrize("name", [name for name in model_cfgs if name.startswith(("regnetx", "regnety"))])
def test_regnet_sizes__widths_are_timms(name: str) -> None:
    cfg = model_cfgs[name]
    sizes = RegNetSizes(
        depth=cfg.depth, w0=cfg.w0, wa=cfg.wa, wm=cfg.wm, group_size=cfg.group_size, stem_width=cfg.stem_width
    )
    assert sizes.widths == generate_regnet(cfg.wa, cfg.w0, cfg.wm, cfg.depth, cfg.group_size)[0]


def test_regnet_sizes__three_stages_are_no_regnet() -> None:
    with pytest.raises(ValidationError, match=r"these sizes make 3 stages, of widths \[24, 48, 96\]"):
        RegNetSizes(depth=6, w0=24, wa=16.0, wm=2.0, group_size=8, stem_width=16)


def test_published_uri__is_an_address_or_null_and_no_part_of_a_runs_identity() -> None:
    values = {"images_per_shard": 8, "seed": 0, "store": "original"}
    assert Shard.model_validate(values).published_uri is None
    for uri in ("s3://bucket", "s3://my.bucket-1/a/b"):
        shard = Shard.model_validate(values | {"published_uri": uri})
        assert shard.published_uri == uri and shard.model_dump(mode="json") == values
    for wrong in ("bucket/prefix", "https://bucket/prefix", "s3://", "s3:///x", "s3://B", 7):
        with pytest.raises(ValidationError, match="published_uri"):
            Shard.model_validate(values | {"published_uri": wrong})


def test_train__stored_labels_that_have_a_teacher_and_hold_enough() -> None:
    for changes in ({}, {"distill": "none"}, {"distill": "soft", "labelling__top_k": 1}):
        Train.model_validate(changed(DEFAULT["train"], labels="stored", **changes))
    Train.model_validate(changed(DEFAULT["train"], distill="soft"))  # live labels need no top_k


VIT = {"architecture": "vit", "sizes": None, "norm_group": None, "model": DEFAULT["train"]["model"]}


def test_teacher__a_transformer_of_the_students_sizes() -> None:
    made = Teacher.model_validate({**DEFAULT["teacher"], **VIT, "drop_path": 0.1})
    assert made.groups == made.views.batch_size and made.model is not None and made.model.depth == 4


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({**VIT, "norm_group": 64}, "norm_group 64 groups batch statistics, which a transformer has none of"),
        ({**VIT, "sizes": DEFAULT["teacher"]["sizes"]}, "sizes are a RegNetY's"),
        ({**VIT, "source": "w.pth", "sha256": "a5fe301d", "licence": "MIT"}, "needs source: train, not w.pth"),
        ({"architecture": "deit_base_patch16_224"}, "architecture"),
        ({"norm_group": None}, "norm_group is missing; regnety_002 needs"),
        ({"model": VIT["model"]}, "model is for architecture: vit; regnety_002 takes sizes"),
        ({"drop_path": 0.1}, "drop_path 0.1 is for architecture: vit"),
    ],
)
def test_teacher__what_belongs_to_the_other_family_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Teacher.model_validate({**DEFAULT["teacher"], **changes})


def test_train__which_students_have_two_tokens() -> None:
    for changes, two in (({}, True), ({"distillation_token": False}, False), ({"distill": "none"}, False)):
        assert Train.model_validate({**DEFAULT["train"], **changes}).two_tokens is two
