"""Somebody else's teacher: the very file that was named, its preprocessing and classes as its own config says."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from stages.lib.core import load
from stages.lib.core.outcome import Refusal
from stages.lib.models import fetched, folder, teacher
from stages.lib.params.teacher import RegNetSizes, Teacher
from tests.conftest import ROOT

SIZES = RegNetSizes(depth=6, w0=24, wa=24.0, wm=2.0, group_size=8, stem_width=16)
CLASSES = ("ant", "bee", "cow")
DEFAULT: dict[str, Any] = load.parse((ROOT / "params.yaml").read_text())["teacher"]


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUTELAGE_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


def network(classes: int = 3, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return teacher.create("regnety_002", SIZES, classes)


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def block(source: str, sha256: str, **changes: Any) -> Teacher:
    return Teacher.model_validate({**DEFAULT, "source": source, "sha256": sha256, "licence": "test", **changes})


def written(path: Path, model: nn.Module, config: dict[str, Any] | None = None) -> Path:
    """Weights, and the config beside them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(model.state_dict(), path)
    if config is not None:
        (path.parent / folder.CONFIG).write_text(json.dumps({"architecture": "regnety_002", **config}))
    return path


def loaded(path: Path, ours: nn.Module, classes: tuple[str, ...] = CLASSES, how: str = "same") -> fetched.Origin:
    """What becomes of a local file; fills `ours`."""
    found = fetched.origin(block(str(path), digest_of(path)), Path("raw"))
    fetched.load(ours, found, classes, how)
    return found


def equal(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_origin__a_relative_path_starts_at_the_raw_root(tmp_path: Path) -> None:
    path = written(tmp_path / "w.safetensors", network())
    found = fetched.origin(block("w.safetensors", digest_of(path)[:8]), tmp_path)
    assert found == fetched.Origin(path, {}, ())


def test_load__tensors_of_the_file(tmp_path: Path) -> None:
    theirs, ours = network(seed=1), network(seed=2)
    assert not equal(theirs, ours)
    loaded(written(tmp_path / "w.safetensors", theirs), ours)
    assert equal(theirs, ours)


def test_origin__another_file_than_named_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "w.safetensors", network())
    named = block(path.name, digest_of(path))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(Refusal, match=f"teacher.sha256 is {named.sha256}"):
        fetched.origin(named, tmp_path)


def test_origin__a_missing_file_says_where_to_put_it(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="is not there"):
        fetched.origin(block("no.pth", "0" * 64), tmp_path)


def test_origin__a_remote_file_that_was_not_fetched_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"python -m stages.fetch https://host.invalid/w.pth 00000000"):
        fetched.origin(block("https://host.invalid/w.pth", "0" * 8), tmp_path)


def test_origin__a_remote_file_that_is_kept_needs_no_network(tmp_path: Path, runs: Path) -> None:
    path = written(tmp_path / "w.safetensors", network(seed=1))
    kept = runs / "fetched" / digest_of(path)
    kept.parent.mkdir(parents=True)
    path.rename(kept)
    found = fetched.origin(block("s3://bucket/w.pth", kept.name[:12]), tmp_path)
    ours = network(seed=2)
    fetched.load(ours, found, CLASSES, "same")
    assert found.path == kept and equal(ours, network(seed=1))


def test_load__weights_for_other_classes_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "w.safetensors", network(classes=5))
    with pytest.raises(Refusal, match=r"3 classes of this set.*wanted \(3"):
        loaded(path, network())


def test_published_config__is_timms_own() -> None:
    found = fetched.published_config("timm/regnety_160.deit_in1k")
    assert found["crop_pct"] == 0.95 and found["interpolation"] == "bicubic"
    assert tuple(found["mean"]) == (0.485, 0.456, 0.406) and tuple(found["std"]) == (0.229, 0.224, 0.225)
    assert fetched.published_config("https://host/w.pth") == {}
    with pytest.raises(Refusal, match=r"knows no weights regnety_160.deit_in22k, only .*regnety_160.deit_in1k"):
        fetched.published_config("timm/regnety_160.deit_in22k")


def test_beside__config_json_says_how_images_are_prepared(tmp_path: Path) -> None:
    config = {"pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "crop_pct": 0.9, "url": "x"}}
    path = written(tmp_path / "theirs" / folder.WEIGHTS, network(), config)
    found = loaded(path, network())
    assert found.prepared == {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "crop_pct": 0.9} and found.names == ()
    other = path.rename(path.with_name("other.safetensors"))  # the config is not about it
    assert loaded(other, network()).prepared == {}


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        (("bee", "ant", "cow"), "not the same in the same order"),
        (("ant", "bee", "cow", "dog"), "for 4 classes"),
        (("ant", "bee"), "for 2 classes"),
    ],
)
def test_load__other_classes_or_another_order_are_refused_unless_told(
    tmp_path: Path, theirs: tuple[str, ...], said: str
) -> None:
    config = {"pretrained_cfg": {}, "label_names": list(theirs)}
    path = written(tmp_path / folder.WEIGHTS, network(len(theirs)), config)
    with pytest.raises(Refusal, match=said):
        loaded(path, network())


@pytest.mark.parametrize("theirs", [("bee", "ant", "cow"), ("dog", "cow", "eel", "ant", "bee")])
def test_load__by_name_answers_about_our_classes(tmp_path: Path, theirs: tuple[str, ...]) -> None:
    """Logit by logit, in evaluation mode, the answers are theirs in our order."""
    model = network(len(theirs), seed=1).eval()
    path = written(tmp_path / folder.WEIGHTS, model, {"pretrained_cfg": {}, "label_names": list(theirs)})
    ours = network(seed=2).eval()
    loaded(path, ours, how="by-name")
    images = torch.randn(4, 3, 32, 32)
    expected = torch.stack([model(images)[:, theirs.index(name)] for name in CLASSES], 1)
    torch.testing.assert_close(ours(images), expected)
    assert not torch.allclose(ours(images), model(images)[:, :3])  # the control: taken as they come they would differ


@pytest.mark.parametrize(
    ("theirs", "rows", "said"),
    [
        (("ant", "bee", "dog"), 3, "but not cow of this set"),
        (("ant", "ant", "bee", "cow"), 4, "name a class twice"),
        ((), 3, "needs weights that name their classes"),
        (("ant", "bee", "cow", "dog"), 3, "has 3 rows, but .* names 4"),
    ],
)
def test_load__by_name_needs_names_that_say_something(
    tmp_path: Path, theirs: tuple[str, ...], rows: int, said: str
) -> None:
    config = {"pretrained_cfg": {}, "label_names": list(theirs)}
    path = written(tmp_path / folder.WEIGHTS, network(rows), config)
    with pytest.raises(Refusal, match=said):
        loaded(path, network(), how="by-name")
