"""evaluate: every image once, every head, prepared as config.json says; against timm and scikit-learn alone."""

import csv
import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import timm
import torch
from PIL import Image
from scipy.stats import binom
from sklearn.metrics import accuracy_score, log_loss, top_k_accuracy_score

from stages import evaluate
from stages.lib.core import files
from stages.lib.core.outcome import Refusal
from stages.lib.data import predictions
from stages.lib.data.index import read_index
from stages.lib.ingestion import index_writer
from stages.lib.ingestion.index_writer import Place
from stages.lib.models import architecture, deit, flops, folder
from stages.lib.models import teacher as regnet
from stages.lib.params.system import System
from stages.lib.params.teacher import RegNetSizes
from stages.lib.params.vit import ViT
from stages.lib.training import measure

SET, CLASSES = "tiny", tuple("abcdefg")
COUNTS = {"train": 9, "val": 37}
PARAMS = """\
shard: {images_per_shard: 8, seed: 0}
evaluate: {split: val, batch_size: 8}
export: {formats: FORMATS, parity_images: 32, parity_tolerance: 1e-4}
system: {device: cpu, threads: 1, workers: WORKERS, processes: 0, prefetch: 2, log_seconds: 5.0, log_steps: 10,
  checkpoint_seconds: 15.0, keep_checkpoints: 2}
"""
OUTS = (
    "metrics/{}.json",
    "predictions/{}.parquet",
    "plots/{}-confusion.csv",
    "plots/{}-classes.csv",
    "plots/{}-reliability.csv",
)


def picture(rng: np.random.Generator, place: int) -> bytes:
    """A smooth image of its own size; every third one grey, every fifth a JPEG."""
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8))
    image = coarse.resize((20 + place % 7, 26 - place % 5), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    (image.convert("L") if place % 3 == 0 else image).save(buffer, "JPEG" if place % 5 == 0 else "PNG")
    return buffer.getvalue()


def write_set(root: Path) -> None:
    """Shards and index of 46 images; class g is in no split."""
    rng = np.random.default_rng(0)
    places, shards = [], {}
    folder = root / "data/shards" / SET
    folder.mkdir(parents=True)
    for split, count in COUNTS.items():
        name, images = f"{SET}-{split}-000000.tar", [picture(rng, place) for place in range(count)]
        with tarfile.open(folder / name, "w") as tar:
            for place, data in enumerate(images):
                member = tarfile.TarInfo(f"{split}/{place:03d}.png")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        with tarfile.open(folder / name) as tar:
            for place, (data, member) in enumerate(zip(images, tar.getmembers(), strict=True)):
                key, digest = member.name.removesuffix(".png"), hashlib.sha256(data).hexdigest()
                places.append(
                    Place(
                        key,
                        split,
                        place % 6,
                        name,
                        member.offset_data,
                        len(data),
                        digest,
                        20 + place % 7,
                        26 - place % 5,
                        1,
                    )
                )
        size, digest = (folder / name).stat().st_size, hashlib.sha256((folder / name).read_bytes()).hexdigest()
        shards[name] = {"sha256": digest, "bytes": size, "images": count, "split": split}
    (root / "data/index").mkdir()
    index_writer.write(root / f"data/index/{SET}.parquet", places, CLASSES, shards)


def save_student(root: Path, distilled: bool = True, name: str = "student", **changes: Any) -> None:
    """A transformer whose heads have opinions."""
    vit = ViT(patch_size=4, width=24, depth=2, heads=2)
    torch.manual_seed(1)
    model = deit.create(vit, 16, len(CLASSES), distilled)
    with torch.no_grad():  # fresh weights are so small that every image would get one class
        for parameter in model.parameters():
            parameter.mul_(6)
    deit.fresh_heads(model, len(CLASSES), 0.2, torch.Generator().manual_seed(2))
    kind, arguments = architecture.classifier(vit, 16, distilled)
    folder.save(model, root / "data/models" / name, kind, arguments, 16, changes.get("crop_pct", 0.875), CLASSES)


def save_teacher(root: Path) -> None:
    """A small RegNetY with running statistics that are not the initial ones."""
    sizes = RegNetSizes(depth=6, w0=24, wa=24.0, wm=2.0, group_size=8, stem_width=8)
    torch.manual_seed(1)
    model = regnet.create("regnety_002", sizes, len(CLASSES))
    with torch.no_grad():
        model.head.fc.weight.normal_()
        model(torch.randn(32, 3, 32, 32))
    folder.save(model, root / "data/models/teacher", "regnety_002", regnet.model_args(sizes), 32, 1.0, CLASSES)


def main(monkeypatch: pytest.MonkeyPatch, root: Path, name: str, workers: int = 0, **replaced: str) -> None:
    text = PARAMS.replace("WORKERS", str(workers)).replace("FORMATS", "[timm]")
    for old, new in replaced.items():
        text = text.replace(old, new)
    (root / "params.yaml").write_text(text)
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "argv", ["evaluate", name, SET])
    evaluate.main()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_set(tmp_path)
    save_student(tmp_path)
    return tmp_path


def alone(root: Path, name: str) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """(timm's model's inputs f32[N, 3, S, S], its eval logits f32[N, K], labels) with nothing but timm and tarfile."""
    model = timm.create_model(f"local-dir:{root}/data/models/{name}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    with tarfile.open(root / f"data/shards/{SET}/{SET}-val-000000.tar") as tar:
        images = [Image.open(io.BytesIO(tar.extractfile(m).read())).convert("RGB") for m in tar.getmembers()]  # type: ignore[union-attr]
    inputs = torch.stack([transform(image) for image in images])
    with torch.inference_mode():
        return inputs, model(inputs), np.arange(len(images)) % 6


def right(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Share of images whose most probable class is the label."""
    return float(accuracy_score(labels, probabilities.argmax(1)))


def outputs(root: Path, name: str) -> dict[str, bytes]:
    return {out: (root / "data" / out.format(name)).read_bytes() for out in OUTS}


def test_evaluate__agrees_with_timm_and_scikit_learn(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main(monkeypatch, project, "student")
    inputs, logits, labels = alone(project, "student")
    model = timm.create_model(f"local-dir:{project}/data/models/student", pretrained=True).eval()
    with torch.inference_mode():
        tokens = model.forward_features(inputs)
        first, second = model.head(tokens[:, 0]), model.head_dist(tokens[:, 1])
    table = pq.read_table(project / "data/predictions/student.parquet").to_pydict()
    assert table["key"] == [f"val/{place:03d}" for place in range(COUNTS["val"])]
    assert table["label"] == labels.tolist()
    assert table["class_top1"] == first.argmax(1).tolist()
    assert table["dist_top1"] == second.argmax(1).tolist()
    assert table["fused_logits_top1"] == table["model_top1"] == logits.argmax(1).tolist()
    together = first.double().softmax(1) + second.double().softmax(1)  # in single precision two sure heads tie
    assert table["fused_probs_top1"] == together.argmax(1).tolist()
    assert np.allclose(table["model_prob"], logits.softmax(1).amax(1), atol=1e-6)
    heads = ("class", "dist", "fused_logits", "fused_probs")
    assert len({tuple(table[f"{head}_top1"]) for head in heads}) == 4  # the controls: heads are told apart, images too
    assert len(set(table["model_top1"])) > 3

    metrics = json.loads((project / "data/metrics/student.json").read_text())
    expected = {"model": "student", "set": SET, "split": "val", "images": 37, "classes": 7, "image_size": 16}
    assert metrics.items() >= expected.items()
    assert metrics["parameters"] == sum(p.numel() for p in model.parameters())
    a, b, fused = (z.double().softmax(1).numpy() for z in (first, second, logits))
    probabilities = {"class": a, "dist": b, "fused_logits": fused, "fused_probs": (a + b) / 2}
    assert list(metrics["heads"]) == list(probabilities)
    known = np.arange(7)
    for head, p in probabilities.items():
        assert metrics["heads"][head]["top1"] == pytest.approx(100 * accuracy_score(labels, p.argmax(1)), abs=1e-4)
        top5 = 100 * top_k_accuracy_score(labels, p, k=5, labels=known)
        assert metrics["heads"][head]["top5"] == pytest.approx(top5, abs=1e-4)
        assert metrics["heads"][head]["nll"] == pytest.approx(log_loss(labels, p, labels=known), abs=1e-5)
        assert metrics["heads"][head]["top1_low"] == pytest.approx(
            100 * binom.ppf(0.025, 37, right(p, labels)) / 37, abs=1e-4
        )
        assert metrics["heads"][head]["top1_high"] == pytest.approx(
            100 * binom.ppf(0.975, 37, right(p, labels)) / 37, abs=1e-4
        )
    chosen = fused[np.arange(37), labels]
    assert np.allclose(table["model_nll"], -np.log(chosen), rtol=1e-4, atol=1e-5)
    assert metrics["macs"] == flops.vit_macs(ViT(patch_size=4, width=24, depth=2, heads=2), 16, 7, distilled=True)
    agreement = 100 * accuracy_score(first.argmax(1), second.argmax(1))
    assert metrics["agreement"]["class_dist"] == pytest.approx(agreement, abs=1e-4)


def test_evaluate__bytes_do_not_depend_on_run_or_workers(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main(monkeypatch, project, "student")
    before = outputs(project, "student")
    main(monkeypatch, project, "student", workers=3)
    assert outputs(project, "student") == before
    assert not list((project / "data").rglob("*.tmp"))
    main(monkeypatch, project, "student", **{"batch_size: 8": "batch_size: 37"})
    assert outputs(project, "student")["plots/{}-confusion.csv"] == before["plots/{}-confusion.csv"]
    # negative control: another preprocessing gives other bytes
    save_student(project, crop_pct=0.5)
    main(monkeypatch, project, "student")
    after = outputs(project, "student")
    assert after["metrics/{}.json"] != before["metrics/{}.json"]
    assert after["predictions/{}.parquet"] != before["predictions/{}.parquet"]


def test_evaluate__plots_tell_the_metrics_accuracy(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main(monkeypatch, project, "student")
    top1 = json.loads((project / "data/metrics/student.json").read_text())["heads"]["fused_logits"]["top1"]
    with (project / "data/plots/student-confusion.csv").open() as file:
        pairs = list(csv.DictReader(file))
    assert len(pairs) == COUNTS["val"] and set(pairs[0]) == {"actual", "predicted"}
    assert 100 * np.mean([pair["actual"] == pair["predicted"] for pair in pairs]) == pytest.approx(top1, abs=1e-4)
    with (project / "data/plots/student-classes.csv").open() as file:
        classes = list(csv.DictReader(file))
    assert [row["class"] for row in classes] == list(CLASSES)
    assert [int(row["images"]) for row in classes] == [7, 6, 6, 6, 6, 6, 0]
    assert classes[6]["top1"] == ""
    hits = sum(int(row["images"]) * float(row["top1"] or 0) for row in classes)
    assert hits / COUNTS["val"] == pytest.approx(top1, abs=1e-3)


def test_evaluate__reliability_tells_the_metrics_numbers(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main(monkeypatch, project, "student")
    heads = json.loads((project / "data/metrics/student.json").read_text())["heads"]
    with (project / "data/plots/student-reliability.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["head", "low", "high", "images", "confidence", "accuracy"]
    for head, numbers in heads.items():
        mine = [row for row in rows if row["head"] == head]
        assert len(mine) == 15 and mine[0]["low"] == "0.000000" and mine[14]["high"] == "1.000000"
        assert all(row["accuracy"] == row["confidence"] == "" for row in mine if row["images"] == "0")
        full = [
            (int(row["images"]), float(row["confidence"]), float(row["accuracy"])) for row in mine if row["accuracy"]
        ]
        assert 100 * sum(n * a for n, _, a in full) / COUNTS["val"] == pytest.approx(numbers["top1"], abs=1e-3)
        assert 100 * sum(n * abs(c - a) for n, c, a in full) / COUNTS["val"] == pytest.approx(numbers["ece"], abs=1e-3)


def test_evaluate__stamps_what_was_measured(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main(monkeypatch, project, "student")
    stamp = json.loads((project / "data/metrics/student.json").read_text())["stamp"]
    found = predictions.read(project / "data/predictions/student.parquet")
    assert found.stamp == stamp and (found.set_name, found.split) == (SET, "val")
    weights, index = files.sha256(project / "data/models/student"), files.sha256(project / f"data/index/{SET}.parquet")
    assert stamp == [f"model {weights}", f"index {index}"]
    save_student(project, crop_pct=0.5)
    main(monkeypatch, project, "student")
    assert predictions.read(project / "data/predictions/student.parquet").stamp[1:] == stamp[1:]
    assert predictions.read(project / "data/predictions/student.parquet").stamp[0] != stamp[0]


def test_evaluate__a_convnet_and_a_plain_transformer_have_one_head(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_teacher(project)
    save_student(project, distilled=False, name="finetuned")
    for name in ("teacher", "finetuned"):
        main(monkeypatch, project, name)
        _, logits, labels = alone(project, name)
        metrics = json.loads((project / f"data/metrics/{name}.json").read_text())
        assert list(metrics["heads"]) == ["class"] and "agreement" not in metrics
        assert metrics["heads"]["class"]["top1"] == pytest.approx(100 * right(logits.numpy(), labels), abs=1e-4)
        table = pq.read_table(project / f"data/predictions/{name}.parquet")
        assert table.column_names == ["key", "label", "class_top1", "model_top1", "model_prob", "model_nll"]
        assert table["model_top1"].to_pylist() == logits.argmax(1).tolist()
    assert [str(kind) for kind in table.schema.types] == ["string", "int32", "int32", "int32", "float", "float"]


def test_evaluate__a_model_is_prepared_for_as_its_own_config_says(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fetched teacher may want another mean and deviation; timm alone says what it then predicts."""
    save_teacher(project)
    path = project / "data/models/teacher/config.json"
    config = json.loads(path.read_text())
    config["pretrained_cfg"] |= {"mean": [0.2, 0.5, 0.8], "std": [0.5, 0.25, 1.0], "interpolation": "bilinear"}
    path.write_text(json.dumps(config))
    main(monkeypatch, project, "teacher")
    _, logits, _ = alone(project, "teacher")
    table = pq.read_table(project / "data/predictions/teacher.parquet")
    assert table["model_top1"].to_pylist() == logits.argmax(1).tolist()
    assert np.allclose(table["model_prob"], logits.softmax(1).amax(1), atol=1e-6)


def test_measure__gives_transfer_the_same_metrics(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main(monkeypatch, project, "student")
    values = {"threads": 1, "workers": 0, "processes": 0, "prefetch": 1, "log_seconds": 1.0, "log_steps": 1}
    system = System(device="cpu", checkpoint_seconds=1.0, keep_checkpoints=1, **values)
    index = read_index(project / f"data/index/{SET}.parquet", "val")
    metrics = measure.model(project / "data/models/student", index, project / f"data/shards/{SET}", 8, system)
    assert metrics == json.loads((project / "data/metrics/student.json").read_text())


def test_evaluate__refuses_a_split_that_is_not_there(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Refusal, match="test"):
        main(monkeypatch, project, "student", **{"split: val": "split: test"})


def test_evaluate__refuses_a_repeated_image(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = project / f"data/index/{SET}.parquet"
    table = pq.read_table(path)
    keys = table["key"].to_pylist()
    keys[-1] = keys[-2]
    pq.write_table(table.set_column(0, "key", pa.array(keys)), path)
    with pytest.raises(Refusal, match="names an image twice"):
        main(monkeypatch, project, "student")


def test_evaluate__refuses_a_model_of_other_classes(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = project / "data/models/student/config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"label_names": list("gfedcba")}))
    with pytest.raises(Refusal, match=r"g, f, e \.\.\..*a, b, c \.\.\..*not the same"):
        main(monkeypatch, project, "student")
    assert not (project / "data/metrics/student.json").exists()
