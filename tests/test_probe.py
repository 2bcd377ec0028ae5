"""What an encoder knows: the curve while it is pretrained, and the stage `probe` afterwards."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from stages import pretrain, probe
from stages.lib.core import files, load
from stages.lib.core.outcome import Refusal
from stages.lib.data.batch import Batch
from stages.lib.models import mae_folder, stand_in, teacher
from stages.lib.models.mae import MAE, patchify
from stages.lib.models.mae_features import class_token
from stages.lib.models.readout import Readout
from stages.lib.objectives.read_out import ReadOut
from stages.lib.params.everything import Everything
from stages.lib.params.pretrain import Decoder
from stages.lib.params.vit import ViT
from stages.lib.training.lars import Lars
from tests import workspace
from tests.looked_at import lay_out, main, relabel
from tests.test_evaluate import SET
from tests.workspace import edit, run

WEIGHTS, OUTS = "data/models/mae", ("data/metrics/probe.json", *(f"data/samples/mae-{n}.png" for n in (50, 75, 90)))


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project after pretraining with a curve of neighbours."""
    folder = tmp_path_factory.mktemp("probe") / "project"
    folder.mkdir()
    lay_out(folder)
    edit(folder, {"pretrain.probe_images": 6})
    with pytest.MonkeyPatch.context() as patch:
        main(patch, folder, pretrain, SET)
    return folder


@pytest.fixture
def project(pretrained: Path, tmp_path: Path) -> Path:
    """A copy."""
    return Path(shutil.copytree(pretrained, tmp_path / "project", symlinks=True))


def curve(root: Path) -> list[dict[str, str]]:
    with (root / "data/history/mae.csv").open() as file:
        return list(csv.DictReader(file))


def test_pretrain__labels_move_the_curve_and_no_weight(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: `pretrain` learns from pixels alone. Other labels, or none asked, leave every bit of encoder and decoder."""
    before, rows = files.sha256(project / WEIGHTS), curve(project)
    assert all(0 <= float(row["knn_top1"]) <= 100 for row in rows)
    relabel(project, 1)
    main(monkeypatch, project, pretrain, SET)
    assert files.sha256(project / WEIGHTS) == before
    others = curve(project)
    assert [row["knn_top1"] for row in others] != [row["knn_top1"] for row in rows]
    assert [row["val_loss"] for row in others] == [row["val_loss"] for row in rows]
    edit(project, {"pretrain.probe_images": 0})
    main(monkeypatch, project, pretrain, SET)
    assert files.sha256(project / WEIGHTS) == before and "knn_top1" not in curve(project)[0]
    edit(project, {"pretrain.seed": 5})  # negative control: what does move weights
    main(monkeypatch, project, pretrain, SET)
    assert files.sha256(project / WEIGHTS) != before


def test_probe__the_same_bytes_again_and_the_picture_of_pretraining(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main(monkeypatch, project, probe, SET)
    first = {name: (project / name).read_bytes() for name in OUTS}
    metrics = json.loads(first[OUTS[0]])
    assert {name: metrics[name] for name in ("set", "split", "images")} == {"set": SET, "split": "val", "images": 37}
    for readout in ("knn", "linear"):
        assert metrics[readout]["top1_low"] <= metrics[readout]["top1"] <= metrics[readout]["top1_high"]
    assert list(metrics["reconstruction"]) == ["50", "75", "90"]
    assert first["data/samples/mae-75.png"] == (project / "data/samples/mae.png").read_bytes()
    assert float(curve(project)[-1]["val_loss"]) == pytest.approx(metrics["reconstruction"]["75"]["loss"], abs=1e-6)
    pictures = [np.asarray(Image.open(project / name)) for name in OUTS[1:]]
    hidden = [(picture[18:35] == pretrain_grey()).all(-1).sum() for picture in pictures]  # 16 px a view, 1 px of white
    assert hidden[0] < hidden[1] < hidden[2]
    assert all(np.array_equal(picture[:17], pictures[0][:17]) for picture in pictures)  # the same originals
    shutil.rmtree(project / "data/runs")
    main(monkeypatch, project, probe, SET)
    assert {name: (project / name).read_bytes() for name in OUTS} == first
    edit(project, {"probe.seed": 1})  # negative control
    main(monkeypatch, project, probe, SET)
    assert json.loads((project / OUTS[0]).read_text())["linear"] != metrics["linear"]


def pretrain_grey() -> np.ndarray:
    """What a hidden patch is shown as: zero after normalisation."""
    return np.round(np.array([0.485, 0.456, 0.406]) * 255).astype(np.uint8)


def test_probe__a_decoder_of_another_encoder_is_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = project / WEIGHTS / "decoder.json"
    sizes.write_text(json.dumps({"width": 32, "depth": 1, "heads": 2}))
    with pytest.raises(Refusal, match="no decoder of"):
        main(monkeypatch, project, probe, SET)
    sizes.write_text("{")
    with pytest.raises(Refusal, match=r"decoder\.json is missing or damaged"):
        main(monkeypatch, project, probe, SET)


def test_mae_folder__loads_what_was_saved(pretrained: Path) -> None:
    """Equal to timm's encoder on whole images, equal to itself, and torch's generator stays."""
    torch.manual_seed(3)
    mae = mae_folder.load(pretrained / WEIGHTS, 0.75)
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert drawn == torch.rand(1)
    assert mae_folder.sizes(mae) == ViT(patch_size=4, width=24, depth=2, heads=2)
    images = torch.randn(2, 3, 16, 16)
    encoder = mae_folder.folder.load(pretrained / WEIGHTS)[0].eval()
    with torch.inference_mode():
        theirs, ours = encoder(images), class_token(mae, images)
        assert (theirs - ours).abs().max() < 1e-5
        assert (class_token(mae, images.flip(3)) - ours).abs().max() > 1e-4  # negative control


def features(images: torch.Tensor) -> torch.Tensor:
    """A frozen encoder of sorts: the mean of each quarter of an image, so its class where classes light different ones."""
    return images.unfold(2, 4, 4).unfold(3, 4, 4).mean((-1, -2)).flatten(1)


def lit(labels: torch.Tensor, seed: int) -> torch.Tensor:
    """u8[B, 3, 8, 8]: noise, and a brighter quarter for each of four classes."""
    images = torch.randint(
        100, (len(labels), 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )
    for image, label in zip(images, labels.tolist(), strict=True):
        image[:, 4 * (label // 2) : 4 * (label // 2) + 4, 4 * (label % 2) : 4 * (label % 2) + 4] += 40
    return images


def learnt(labels: torch.Tensor, truth: torch.Tensor) -> float:
    """Share of right answers on new images after some steps of the probe's objective and optimizer."""
    readout = Readout(12, 4, 32, 0)
    objective, lars = ReadOut(features, readout), Lars(readout.parameters(), 0.9, 0.0, 0.01)
    images = lit(truth, 1)
    for step in range(60):
        rows = torch.arange(32 * step, 32 * step + 32) % len(labels)
        lars.zero_grad()
        objective(Batch(images[rows], labels[rows], rows))["loss"].backward()
        teacher.settle(readout, lambda mine: mine)
        for group in lars.param_groups:
            group["lr"] = 5.0
        lars.step()
    readout.eval()
    asked = torch.arange(400) % 4
    with torch.inference_mode():
        logits = readout(features(probe.normalise(lit(asked, 2))))
    return float((logits.argmax(1) == asked).double().mean())


def test_readout__learns_what_features_tell_and_nothing_from_shuffled_labels() -> None:
    truth = torch.arange(320) % 4
    assert learnt(truth, truth) > 0.98
    shuffled = truth[torch.randperm(320, generator=torch.Generator().manual_seed(4))]
    assert abs(learnt(shuffled, truth) - 0.25) < 0.15


def test_readout__is_all_that_trains_and_all_a_checkpoint_holds() -> None:
    mae = MAE(8, ViT(patch_size=4, width=24, depth=1, heads=2), Decoder(width=16, depth=1, heads=2), 0.5)
    objective = ReadOut(lambda images: class_token(mae, images), Readout(24, 3, 2, 0))
    batch = Batch(torch.randint(255, (4, 3, 8, 8), dtype=torch.uint8), torch.tensor([0, 1, 2, 0]), torch.arange(4))
    objective(batch)["loss"].backward()
    assert all(weight.grad is None for weight in mae.parameters())
    assert all(weight.grad is not None for weight in objective.parameters())
    names = {"readout.norm.running_mean", "readout.norm.running_var", "readout.norm.num_batches_tracked"}
    assert set(objective.state_dict()) == names | {"readout.linear.weight", "readout.linear.bias"}
    assert patchify(torch.zeros(1, 3, 8, 8), 4).shape[1] == 4


@pytest.mark.slow
def test_probe__a_blind_encoder_is_at_chance_and_an_untrained_one_paints_worse(tmp_path: Path) -> None:
    """On the embedded digits. An untrained encoder that sees reads digits this small as well as a trained one (docs/results.md)."""
    workspace.lay_out(tmp_path)
    edit(tmp_path, {"pretrain.epochs": 30, "pretrain.schedule.warmup_epochs": 3})
    for stage in ("scan", "ingest", "shard", "pretrain", "probe"):
        run(tmp_path, f"stages.{stage}", workspace.SET)
    trained = json.loads((tmp_path / OUTS[0]).read_text())
    weights = tmp_path / WEIGHTS / "model.safetensors"
    tensors = load_file(weights)
    weights.unlink()  # a link into DVC's cache, perhaps
    save_file({**tensors, "patch_embed.proj.weight": torch.zeros_like(tensors["patch_embed.proj.weight"])}, weights)
    run(tmp_path, "stages.probe", workspace.SET)
    blind = json.loads((tmp_path / OUTS[0]).read_text())
    for readout in ("knn", "linear"):
        assert blind[readout]["top1"] < 45 < 60 < trained[readout]["top1_low"]  # three classes
    torch.manual_seed(0)
    shutil.rmtree(tmp_path / WEIGHTS)
    stand_in.write_mae(load.whole(Everything, tmp_path / "params.yaml").pretrain, tmp_path / WEIGHTS)
    run(tmp_path, "stages.probe", workspace.SET)
    untrained = json.loads((tmp_path / OUTS[0]).read_text())
    assert all(
        untrained["reconstruction"][n]["loss"] > trained["reconstruction"][n]["loss"] for n in ("50", "75", "90")
    )


@pytest.mark.slow
def test_probe_and_curve__of_two_processes_are_those_of_one(project: Path, tmp_path: Path) -> None:
    """Pictures and neighbours to the bit, the linear classifier to rounding: gradients are added in another order."""
    other = Path(shutil.copytree(project, tmp_path / "two", symlinks=True))
    edit(other, {"system.ranks": 2})
    for folder in (project, other):
        run(folder, "stages.probe", SET)
    one, two = (json.loads((folder / OUTS[0]).read_text()) for folder in (project, other))
    assert one["knn"] == two["knn"] and one["reconstruction"] == two["reconstruction"]
    assert one["linear"]["nll"] == pytest.approx(two["linear"]["nll"], abs=1e-4)
    shutil.rmtree(other / "data/runs")
    run(other, "stages.pretrain", SET)
    for ours, theirs in zip(curve(project), curve(other), strict=True):
        assert float(ours["val_loss"]) == pytest.approx(float(theirs["val_loss"]), abs=1e-4)
        assert abs(float(ours["knn_top1"]) - float(theirs["knn_top1"])) < 6  # of 37 images two
