"""export: files that timm, ONNX and torch load alone, and the proof that they predict what was evaluated."""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import timm
import torch

from stages import export
from stages.lib.core import files
from stages.lib.core.outcome import Refusal
from stages.lib.models import architecture, folder, onnx_file, outputs, program_file
from stages.lib.models.mae import MAE
from stages.lib.params.pretrain import Decoder
from stages.lib.params.vit import ViT
from tests import test_evaluate as small
from tests.workspace import environment

FILES = ["README.md", "config.json", "model.safetensors", "parity.json"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A distilled student, evaluated."""
    small.write_set(tmp_path)
    small.save_student(tmp_path)
    small.main(monkeypatch, tmp_path, "student")
    return tmp_path


def main(monkeypatch: pytest.MonkeyPatch, name: str = "student", formats: str = "[timm]") -> None:
    path = Path("params.yaml")
    path.write_text(path.read_text().replace("formats: [timm]", f"formats: {formats}"))
    monkeypatch.setattr(sys, "argv", ["export", name, small.SET])
    export.main()


def refused(project: Path, monkeypatch: pytest.MonkeyPatch, words: str) -> str:
    """The refusal, after which nothing is left behind."""
    with pytest.raises(Refusal, match=words) as refusal:
        main(monkeypatch)
    assert list((project / "data/exported").iterdir()) == []
    return str(refusal.value)


def change_config(project: Path, **changes: Any) -> None:
    path = project / "data/models/student/config.json"
    config = json.loads(path.read_text())
    config["pretrained_cfg"] |= changes
    path.write_text(json.dumps(config))


def change_predictions(project: Path, column: str, row: int, value: Any) -> None:
    path = project / "data/predictions/student.parquet"
    table = pq.read_table(path)
    values = table[column].to_pylist()
    values[row] = value
    place = table.column_names.index(column)
    pq.write_table(table.set_column(place, column, pa.array(values, table.schema.field(column).type)), path)


def change_weights(project: Path, **tensors: torch.Tensor) -> None:
    path = project / "data/models/student/model.safetensors"
    weights = safetensors.torch.load_file(path)
    safetensors.torch.save_file({**weights, **tensors}, path, metadata={"format": "pt"})


@pytest.mark.parametrize("name", ["student", "teacher", "finetuned"])
def test_export__timm_loads_it_and_predicts_the_same(project: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    if name == "teacher":
        small.save_teacher(project)
    if name == "finetuned":
        small.save_student(project, distilled=False, name="finetuned")
    small.main(monkeypatch, project, name)
    main(monkeypatch, name)
    built = project / "data/exported" / name
    assert sorted(path.name for path in built.iterdir()) == FILES
    parity = json.loads((built / "parity.json").read_text())
    assert parity["images"] == 32 and parity["predictions_equal"] is True
    assert 0 <= parity["max_difference"] < 1e-5
    for file in ("model.safetensors", "config.json"):
        assert (built / file).read_bytes() == (project / "data/models" / name / file).read_bytes()
    model = timm.create_model(f"local-dir:{built}", pretrained=True)
    assert model.pretrained_cfg["label_names"] == list(small.CLASSES)
    config = timm.data.resolve_model_data_config(model)
    assert config["crop_pct"] == (1.0 if name == "teacher" else 0.875) and config["interpolation"] == "bicubic"


def test_export__again_gives_the_same_bytes(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main(monkeypatch)
    before = files.sha256(project / "data/exported/student")
    (project / "data/exported/.student.tmp").mkdir()  # of a process that was killed
    main(monkeypatch)
    assert files.sha256(project / "data/exported/student") == before
    assert [path.name for path in (project / "data/exported").iterdir()] == ["student"]


def test_export__card_says_what_was_measured(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main(monkeypatch)
    card = (project / "data/exported/student/README.md").read_text()
    heads = json.loads((project / "data/metrics/student.json").read_text())["heads"]
    assert f"| distillation head | {heads['dist']['top1']} | {heads['dist']['top5']} |" in card
    assert "| head | top-1, % |" in card and "`dvc repro evaluate@student`" in card
    assert "46 images (9 in train, 37 in val) of 7 classes: a, b, c, d, e, f, g" in card
    assert str(project) not in card


def test_export__refuses_a_weight_changed_since_evaluation(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = project / "data/models/student/model.safetensors"
    bias = safetensors.torch.load_file(path)["head.bias"]
    bias[3] += 0.01
    change_weights(project, **{"head.bias": bias})
    message = refused(project, monkeypatch, "does not predict what was evaluated")
    assert "val/0" in message and "evaluate@student" in message


def test_export__refuses_another_preprocessing(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change_config(project, crop_pct=1.0)
    refused(project, monkeypatch, "probability that differs by more than 0.0001")


def test_export__refuses_a_prediction_that_was_altered(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pq.read_table(project / "data/predictions/student.parquet")
    own, probability = table["model_top1"][7].as_py(), table["model_prob"][7].as_py()
    change_predictions(project, "model_top1", 7, (own + 1) % 7)
    message = refused(project, monkeypatch, "1 get another class")
    assert (
        f"val/007: evaluated {small.CLASSES[(own + 1) % 7]} at {probability:.6f}, exported {small.CLASSES[own]}"
        in message
    )
    change_predictions(project, "model_top1", 7, own)
    change_predictions(project, "model_prob", 11, 0.123456)
    assert "val/011" in refused(project, monkeypatch, "0.123456")


def test_export__an_image_beyond_those_compared_is_not_looked_at(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Positive control of the negative ones: parity_images is 32."""
    change_predictions(project, "model_prob", 32, 0.123456)
    main(monkeypatch)


def test_export__refuses_predictions_of_other_images(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change_predictions(project, "key", 0, "val/999")
    refused(project, monkeypatch, "not about the val images")


def test_export__refuses_weights_timm_does_not_know(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change_weights(project, extra=torch.zeros(3))
    refused(project, monkeypatch, "extra")


def test_export__refuses_weights_timm_would_adapt(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """timm resamples positions of another grid without a word."""
    change_weights(project, pos_embed=torch.zeros(1, 2 + 9, 24))
    refused(project, monkeypatch, "pos_embed")


def test_export__refuses_metrics_of_another_set(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = project / "data/metrics/student.json"
    path.write_text(path.read_text().replace('"tiny"', '"other"'))
    with pytest.raises(Refusal, match="student on other, not student on tiny"):
        main(monkeypatch)


ALL = "[timm, onnx, torch-export]"
PROGRAMS = """
import json, sys
import numpy, onnxruntime, torch
images = torch.from_numpy(numpy.load(sys.argv[2]))
program = torch.export.load(f"{sys.argv[1]}/model.pt2").module()
session = onnxruntime.InferenceSession(f"{sys.argv[1]}/model.onnx")
names = [output.name for output in session.get_outputs()]
found = [[one.tolist() for one in program(part)] for part in (images, images[:1])]
ran = [[one.tolist() for one in session.run(None, {"images": part.numpy()})] for part in (images, images[:1])]
print(json.dumps({"names": names, "onnx": ran, "program": found, "timm": "timm" in sys.modules}))
"""


def save_mae(project: Path) -> MAE:
    """A masked autoencoder whose class token says something of the image."""
    vit, decoder = ViT(patch_size=4, width=24, depth=2, heads=2), Decoder(width=16, depth=1, heads=2)
    torch.manual_seed(3)
    mae = MAE(16, vit, decoder, 0.75)
    with torch.no_grad():
        for parameter in mae.parameters():
            parameter.mul_(3)
    folder.save_mae(mae, project / "data/models/mae", *architecture.encoder(vit, 16), 16, decoder.model_dump())
    return mae


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student in every format."""
    root = tmp_path_factory.mktemp("everything")
    small.write_set(root)
    small.save_student(root)
    with pytest.MonkeyPatch.context() as patch:
        small.main(patch, root, "student")
        main(patch, "student", ALL)
    return root


def answered(root: Path, name: str, place: Path) -> None:
    """In a process that has neither timm nor this project, both files answer as timm does, also one image at a time."""
    built = root / "data/exported" / name
    inputs, logits, _ = small.alone(root, name)
    np.save(place / "images.npy", inputs[:5].numpy())
    command = [sys.executable, "-c", PROGRAMS, str(built), str(place / "images.npy")]
    said = json.loads(subprocess.run(command, cwd=place, check=True, capture_output=True, text=True).stdout)
    assert said["names"] == (list(outputs.DISTILLED) if name == "student" else ["class_logits"]) and not said["timm"]
    for way in ("onnx", "program"):
        for images, answers in zip((5, 1), said[way], strict=True):
            np.testing.assert_allclose(answers[-1], logits[:images], atol=1e-4)
            if name == "student":
                np.testing.assert_allclose(np.add(answers[0], answers[1]) / 2, answers[2], atol=1e-5)
                assert not np.allclose(answers[0], answers[1], atol=1e-2)


def test_export__other_programs_give_every_head_for_any_batch(everything: Path, tmp_path: Path) -> None:
    answered(everything, "student", tmp_path)
    built = everything / "data/exported/student"
    parity = json.loads((built / "parity.json").read_text())
    assert set(parity["largest_difference"]) == {"timm", "onnx", "torch-export"}
    assert all(0 <= value <= 1e-4 for value in parity["largest_difference"].values())
    assert parity["files"] == ["config.json", "model.onnx", "model.pt2", "model.safetensors"]
    about = onnx_file.about(built)
    assert about["label_names"] == list(small.CLASSES) and about["preprocessing"]["channels"] == "RGB"


@pytest.mark.slow
def test_export__other_programs_run_a_convnet(project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    small.save_teacher(project)
    small.main(monkeypatch, project, "teacher")
    main(monkeypatch, "teacher", ALL)
    answered(project, "teacher", tmp_path)


def test_export__the_encoder_gives_features_and_has_imagenets_mean(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """timm's own vit_* would normalise by 0.5; the features are our autoencoder's class token with every patch visible."""
    mae = save_mae(project)
    main(monkeypatch, "mae", "[timm, onnx]")
    built = project / "data/exported/mae"
    encoder = timm.create_model(f"local-dir:{built}", pretrained=True).eval()
    config = timm.data.resolve_model_data_config(encoder)
    assert list(config["mean"]) == [0.485, 0.456, 0.406] and list(config["std"]) == [0.229, 0.224, 0.225]
    images = torch.randn(3, 3, 16, 16)
    mae.keep = 16
    with torch.no_grad():
        expected = mae.encode(images, torch.rand(3, 16))[0][:, 0]
    torch.testing.assert_close(encoder(images), expected, rtol=1e-4, atol=1e-5)
    assert onnx_file.Session(built).names == ("features",)
    card = (built / "README.md").read_text()
    assert "image-feature-extraction" in card and "model-index" not in card and "without a head" in card


def test_export__again_elsewhere_gives_the_same_bytes(
    everything: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the place or of the code that was traced is inside any file."""
    main(monkeypatch, "student", ALL)
    for path in (everything / "data/exported/student").iterdir():
        data = path.read_bytes()
        assert data == (project / "data/exported/student" / path.name).read_bytes(), path.name
        for word in (str(everything).encode(), b"stages/lib", b"site-packages"):
            assert word not in data, path.name
    with zipfile.ZipFile(everything / "data/exported/student/model.pt2") as archive:  # stored: the words would show
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}


@pytest.mark.slow
def test_export__another_process_gives_the_same_bytes(everything: Path, tmp_path: Path) -> None:
    """Other hashes of strings order sets and dictionaries in another way."""
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(everything, elsewhere)
    shutil.rmtree(elsewhere / "data/exported")
    variables = {**environment(), "PYTHONHASHSEED": "77", "PYTHONPATH": str(Path(export.__file__).parents[1])}
    command = [sys.executable, "-m", "stages.export", "student", small.SET]
    subprocess.run(command, cwd=elsewhere, env=variables, check=True, capture_output=True)
    for path in (everything / "data/exported/student").iterdir():
        assert path.read_bytes() == (elsewhere / "data/exported/student" / path.name).read_bytes(), path.name


@pytest.mark.slow
def test_export__weights_that_are_too_large_for_one_file_lie_beside(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_file, "WEIGHTS_BESIDE", 1000)
    main(monkeypatch, "student", "[timm, onnx]")
    first = files.sha256(project / "data/exported/student")
    names = sorted(path.name for path in (project / "data/exported/student").iterdir())
    assert "model.onnx.data" in names
    main(monkeypatch, "student", "[timm, onnx]")
    assert files.sha256(project / "data/exported/student") == first


@pytest.mark.parametrize(
    ("way", "words"),
    [("onnx", {"mean": (0.5, 0.5, 0.5)}), ("torch-export", {"channels": "BGR"}), ("torch-export", {"crop_pct": 1.0})],
)
def test_export__wrong_words_on_preprocessing_are_caught(
    project: Path, monkeypatch: pytest.MonkeyPatch, way: str, words: dict[str, Any]
) -> None:
    """Every image is prepared as the file itself says; more faults in tests/training/test_parity.py."""
    right = export.described
    monkeypatch.setattr(export, "described", lambda network: {**right(network), **words})
    said = rf"{way} does not give what the model gives: of 32 images .* The worst is val/\d\d\d"
    with pytest.raises(Refusal, match=said):
        main(monkeypatch, "student", f"[timm, {way}]")
    assert list((project / "data/exported").iterdir()) == []


def test_export__a_config_that_says_another_mean_is_caught(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted in the exported folder alone: what timm would then do is not what the model was measured with."""
    copy = shutil.copyfile

    def altered(source: Path, target: Path) -> None:
        copy(source, target)
        if Path(source).name == "config.json":
            text = Path(target).read_text()
            Path(target).write_text(re.sub(r'"mean": \[[^]]*\]', '"mean": [0.5, 0.5, 0.5]', text))

    monkeypatch.setattr(export.shutil, "copyfile", altered)
    refused(project, monkeypatch, "val/")


@pytest.mark.usefixtures("project")
def test_export__wrong_weights_in_the_file_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter's own fault: a first layer that expects blue first."""
    write = program_file.write

    def turned(network: Any, *others: Any) -> None:
        weight = network.patch_embed.proj.weight
        kept = weight.detach().clone()
        with torch.no_grad():
            weight.copy_(kept.flip(1))
            write(network, *others)
            weight.copy_(kept)

    monkeypatch.setattr(program_file, "write", turned)
    with pytest.raises(Refusal, match="torch-export does not give what the model gives"):
        main(monkeypatch, "student", "[timm, torch-export]")


def test_export__a_hub_name_loads_it_too(project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The folder in the hub library's cache, under a made-up name and without a network."""
    main(monkeypatch)
    place = tmp_path / "hub/models--somebody--student"
    (place / "refs").mkdir(parents=True)
    (place / "refs/main").write_text("0" * 40)
    shutil.copytree(project / "data/exported/student", place / "snapshots" / ("0" * 40))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    one = timm.create_model("hf-hub:somebody/student", pretrained=True).eval()
    other = timm.create_model(f"local-dir:{project}/data/exported/student", pretrained=True).eval()
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(one(images), other(images)) and one.pretrained_cfg["label_names"] == list(small.CLASSES)


def test_export__publishes_what_is_there(project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    main(monkeypatch)
    monkeypatch.setenv("PYTHONPATH", str(Path(export.__file__).parents[1]))
    monkeypatch.setattr(sys, "argv", ["export", "student", "--publish", str(tmp_path / "published")])
    export.main()
    assert files.sha256(tmp_path / "published") == files.sha256(project / "data/exported/student")
    monkeypatch.setattr(export.subprocess, "run", lambda command: subprocess.CompletedProcess(command, 2))
    with pytest.raises(Refusal, match="student was not published"):
        export.main()
    monkeypatch.setattr(sys, "argv", ["export", "--publish"])
    with pytest.raises(Refusal, match=r"use: python -m stages.export <model> --publish"):
        export.main()
