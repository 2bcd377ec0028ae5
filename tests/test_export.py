"""export: a folder timm loads alone, and the proof that it predicts what was evaluated."""

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import timm
import torch

from stages import export
from stages.lib.core import files
from stages.lib.core.outcome import Refusal
from tests import test_evaluate as small

FILES = ["README.md", "config.json", "model.safetensors", "parity.json"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A distilled student, evaluated."""
    small.write_set(tmp_path)
    small.save_student(tmp_path)
    small.main(monkeypatch, tmp_path, "student")
    return tmp_path


def main(monkeypatch: pytest.MonkeyPatch, name: str = "student") -> None:
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
    assert parity["images"] == 20 and parity["predictions_equal"] is True
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
    """Positive control of the negative ones: parity_images is 20."""
    change_predictions(project, "model_prob", 20, 0.123456)
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
