"""Errors that leave every number plausible, each planted into a small measured project: which number jumps, or who refuses?

The small student knows the set by heart: its class head says the labels, its distillation head what the teacher says, which is
another class for every fourth image. So every figure is known before and after.
"""

import json
import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import timm
import torch

from stages import agree, export, report
from stages.lib.core.outcome import Refusal
from tests import test_evaluate as small

VAL = small.COUNTS["val"]
MODELS = ("teacher", "student", "finetuned")


def labelled(root: Path, labels: np.ndarray) -> None:
    """Write these labels of the val split into the index."""
    path = root / f"data/index/{small.SET}.parquet"
    table = pq.read_table(path)
    new = table["label"].to_numpy().copy()
    new[np.array(table["split"].to_pylist()) == "val"] = labels
    place = table.column_names.index("label")
    pq.write_table(table.set_column(place, table.schema.field("label"), pa.array(new, pa.int32())), path)


def learn(root: Path, labels: np.ndarray, said: np.ndarray) -> None:
    """Train the small student's heads on the val images until it knows them by heart."""
    inputs, _, _ = small.alone(root, "student")
    path = root / "data/models/student"
    model = timm.create_model(f"local-dir:{path}", pretrained=True).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    targets = [torch.tensor(values, dtype=torch.long) for values in (labels, said)]
    for _ in range(400):
        tokens = model.forward_features(inputs)
        first, second = model.head(tokens[:, 0]), model.head_dist(tokens[:, 1])
        if all((z.argmax(1) == y).all() for z, y in zip((first, second), targets, strict=True)):
            break
        loss = sum(torch.nn.functional.cross_entropy(z, y) for z, y in zip((first, second), targets, strict=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    safetensors.torch.save_file(
        {k: v.detach().contiguous() for k, v in model.state_dict().items()},
        path / "model.safetensors",
        metadata={"format": "pt"},
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models, measured and compared."""
    root = tmp_path_factory.mktemp("planted")
    small.write_set(root)
    small.save_teacher(root)
    small.save_student(root)
    said = small.alone(root, "teacher")[1].argmax(1).numpy()
    labels = np.where(np.arange(VAL) % 4 == 0, (said + 1) % 7, said)
    labelled(root, labels)
    learn(root, labels, said)
    shutil.copytree(root / "data/models/student", root / "data/models/finetuned")
    with pytest.MonkeyPatch.context() as patch:
        for name in MODELS:
            small.main(patch, root, name)
        agree.main()
    return root


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to spoil."""
    shutil.copytree(made / "data", tmp_path / "data")
    shutil.copy(made / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def measured(project: Path, name: str = "student") -> dict[str, Any]:
    values: dict[str, Any] = json.loads((project / f"data/metrics/{name}.json").read_text())
    return values


def agreement(project: Path) -> dict[str, Any]:
    agree.main()
    values: dict[str, Any] = json.loads((project / "data/metrics/agreement.json").read_text())
    return values


def exported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["export", "student", small.SET])
    export.main()


def spoil_config(project: Path, name: str = "student", **changes: Any) -> None:
    path = project / f"data/models/{name}/config.json"
    config = json.loads(path.read_text())
    config["pretrained_cfg"] |= changes
    path.write_text(json.dumps(config))


def test_control__every_figure_is_the_one_that_was_built_in(
    project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    heads, apart = measured(project)["heads"], 100 * 10 / VAL  # every fourth of 37 images
    assert heads["class"]["top1"] == 100 and heads["dist"]["top1"] == pytest.approx(100 - apart, abs=1e-4)
    found = agreement(project)
    assert (found["set"], found["split"], found["images"]) == (small.SET, "val", VAL)
    for name in ("student", "finetuned"):
        pairs = found[name]
        assert set(pairs) == {
            *("teacher_class", "teacher_dist", "teacher_fused_logits", "teacher_label", "class_dist"),
            *("class_fused_logits", "class_label", "dist_fused_logits", "dist_label", "fused_logits_label"),
        }
        assert pairs["teacher_dist"] == pairs["class_label"] == 0
        for pair in ("teacher_class", "teacher_label", "class_dist", "dist_label"):
            assert pairs[pair] == pytest.approx(apart, abs=1e-4)
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]
    exported(monkeypatch)


def test_labels_shifted_by_one__top1_falls_and_the_teacher_agrees_as_before(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = agreement(project)["student"]
    rows = pq.read_table(project / f"data/index/{small.SET}.parquet").to_pylist()
    labelled(project, np.array([(row["label"] + 1) % 7 for row in rows if row["split"] == "val"]))
    small.main(monkeypatch, project, "student")
    with pytest.raises(Refusal, match="37 of 37 images have another label"):  # the teacher's are of the index before
        agree.main()
    for name in MODELS:
        small.main(monkeypatch, project, name)
    after = agreement(project)["student"]
    assert measured(project)["heads"]["class"]["top1"] == 0 and after["class_label"] == 100
    for pair in ("teacher_class", "teacher_dist", "class_dist", "teacher_fused_logits"):
        assert after[pair] == before[pair]


def test_another_models_preprocessing__top1_falls_and_the_stamp_is_another(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = measured(project)
    spoil_config(project, mean=[0.0, 0.0, 0.0], std=[1 / 255] * 3)  # as for a model that wants 0..255
    with pytest.raises(Refusal, match=r"does not predict what was evaluated.*evaluate@student"):
        exported(monkeypatch)
    small.main(monkeypatch, project, "student")
    after, pairs = measured(project), agreement(project)["student"]
    assert after["heads"]["class"]["top1_high"] < before["heads"]["class"]["top1_low"]
    assert pairs["teacher_dist"] > 30 and after["stamp"][0] != before["stamp"][0]
    assert after["stamp"][1] == before["stamp"][1]


def test_swapped_heads__the_class_head_is_the_teachers_and_agree_says_so(
    project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = project / "data/models/student/model.safetensors"
    weights = safetensors.torch.load_file(path)
    tokens = weights["cls_token"], weights["dist_token"]
    weights["dist_token"], weights["cls_token"] = tokens
    weights["pos_embed"] = torch.cat([weights["pos_embed"][:, [1, 0]], weights["pos_embed"][:, 2:]], 1)
    for part in ("weight", "bias"):
        weights[f"head.{part}"], weights[f"head_dist.{part}"] = weights[f"head_dist.{part}"], weights[f"head.{part}"]
    before = agreement(project)["student"]
    safetensors.torch.save_file({k: v.contiguous() for k, v in weights.items()}, path, metadata={"format": "pt"})
    small.main(monkeypatch, project, "student")
    after = agreement(project)["student"]
    assert (after["teacher_class"], after["teacher_dist"]) == (before["teacher_dist"], before["teacher_class"])
    assert (after["class_label"], after["dist_label"]) == (before["dist_label"], before["class_label"])
    said = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    assert (
        len(said) == 1
        and said[0].startswith("student: on 10 images the class head alone agrees")
        and "swapped?" in said[0]
    )


@pytest.mark.parametrize("of", ["model", "index"])
def test_stale_metrics__export_refuses(project: Path, monkeypatch: pytest.MonkeyPatch, of: str) -> None:
    """Both of one measurement, and not of what lies there now, though it still predicts the same."""
    if of == "model":
        spoil_config(project, first_conv="patch_embed.proj ")  # another file, the same network
    else:
        path = project / f"data/index/{small.SET}.parquet"
        pq.write_table(pq.read_table(path), path, compression="gzip")
    with pytest.raises(Refusal, match=rf"metrics of student are stale.*another {of} \(.*evaluate@student"):
        exported(monkeypatch)
    small.main(monkeypatch, project, "student")
    exported(monkeypatch)


def test_metrics_of_another_run__export_refuses(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = (project / "data/metrics/student.json").read_text()
    spoil_config(project, crop_pct=0.7)
    small.main(monkeypatch, project, "student")
    (project / "data/metrics/student.json").write_text(old)
    with pytest.raises(Refusal, match=r"not of one measurement: they were made from different model"):
        exported(monkeypatch)


def test_a_number_changed_by_hand__export_refuses(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = measured(project)
    values["heads"]["dist"]["top1"] += 2.7
    values["heads"]["dist"]["top1_high"] = 100.0
    (project / "data/metrics/student.json").write_text(json.dumps(values))
    with pytest.raises(Refusal, match=r"heads\.dist\.top1 is 75\.\d+, of the predictions 72\.973"):
        exported(monkeypatch)


def test_predictions_of_other_images__agree_refuses(project: Path) -> None:
    path = project / "data/predictions/finetuned.parquet"
    table = pq.read_table(path)
    pq.write_table(table.slice(0, 9), path)
    with pytest.raises(Refusal, match=r"37 images and 9, 28 keys are in one alone.*tiny val and tiny val"):
        agree.main()
    pq.write_table(table.take(list(range(VAL))[::-1]), path)
    with pytest.raises(Refusal, match=r"the same keys, in another order"):
        agree.main()
    path.write_bytes(b"PAR1" + path.read_bytes()[100:])
    with pytest.raises(Refusal, match=r"finetuned\.parquet is damaged"):
        agree.main()
    path.unlink()
    with pytest.raises(Refusal, match=r"There is no data/predictions/finetuned\.parquet.*evaluate@finetuned"):
        agree.main()


def test_predictions_of_another_index__agree_refuses(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same keys and labels, other bytes."""
    path = project / f"data/index/{small.SET}.parquet"
    pq.write_table(pq.read_table(path), path, compression="gzip")
    small.main(monkeypatch, project, "student")
    with pytest.raises(Refusal, match=r"one of them is stale, as they were measured with different index \("):
        agree.main()


@pytest.fixture
def reported(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (project / "params.yaml").write_text(
        f"sets: {{main: {small.SET}, transfer: []}}\nreport: {{title: T, worst_classes: 0}}\n"
    )
    monkeypatch.setattr(sys, "argv", ["report"])
    report.main()
    return project


def test_stale_metrics__the_page_is_refused(reported: Path) -> None:
    """Metrics of another run beside agreement; metrics beside a gate that looked at other weights."""
    path = reported / "data/metrics/student.json"
    values = json.loads(path.read_text())
    other = ["model " + "5" * 64, values["stamp"][1]]
    path.write_text(json.dumps(values | {"stamp": other}))
    with pytest.raises(
        Refusal, match=r"agreement\.json and data/metrics/student\.json are not of one run.*different model"
    ):
        report.main()
    path.write_text(json.dumps(values))
    gate = reported / "data/gate-details/model-student.json"
    gate.parent.mkdir()
    facts = {"model": "student", "sha256": values["stamp"][0].split()[1]}
    details = {"gate": "model-student", "about": "", "passed": True, "failed": 0, "expectations": [], "tables": {}}
    gate.write_text(json.dumps(details | {"facts": facts}))
    report.main()  # control
    gate.write_text(json.dumps(details | {"facts": facts | {"sha256": "6" * 64}}))
    with pytest.raises(Refusal, match=r"student\.json and data/gate-details/model-student\.json.*evaluate@student"):
        report.main()


def test_measured_on_two_indexes__the_page_is_refused(reported: Path) -> None:
    (reported / "data/metrics/agreement.json").unlink()
    path = reported / "data/metrics/finetuned.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"stamp": [values["stamp"][0], "index " + "7" * 64]}))
    with pytest.raises(Refusal, match=r"finetuned\.json and data/metrics/teacher\.json.*different index"):
        report.main()
