"""look and attend: the images a model is surest about, and where it looks; on a model whose answers are known."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from stages import attend, evaluate, look
from stages.lib.core.outcome import Refusal
from stages.lib.data import some_images
from stages.lib.data.index import read_index
from stages.lib.data.preparation import preparation_of
from stages.lib.data.sprite import sprite
from stages.lib.models import architecture, deit, folder, token_path
from stages.lib.params.vit import ViT
from tests import closure
from tests.looked_at import lay_out, main
from tests.test_evaluate import CLASSES, SET, save_student, save_teacher

TINY = ViT(patch_size=4, width=24, depth=3, heads=2)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a distilled student, evaluated."""
    root = tmp_path_factory.mktemp("look") / "project"
    root.mkdir()
    lay_out(root)
    save_student(root)
    with pytest.MonkeyPatch.context() as patch:
        main(patch, root, evaluate, "student", SET)
    return root


@pytest.fixture
def project(evaluated: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(evaluated, tmp_path / "project", symlinks=True))


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_look__shows_the_surest_right_and_wrong_answers(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main(monkeypatch, project, look, "student", SET)
    rows = rows_of(project / "data/plots/student-images.csv")
    told = pq.read_table(project / "data/predictions/student.parquet").to_pylist()
    right = sorted((one for one in told if one["model_top1"] == one["label"]), key=lambda one: one["model_nll"])
    wrong = sorted((one for one in told if one["model_top1"] != one["label"]), key=lambda one: -one["model_prob"])
    assert right and len(wrong) > look.WORST  # else there is nothing to choose
    by_kind = {kind: [row["key"] for row in rows if row["kind"] == kind] for kind in ("best", "worst", "sample")}
    assert by_kind["best"] == [one["key"] for one in right[: look.BEST]]
    assert by_kind["worst"] == [one["key"] for one in wrong[: look.WORST]]
    assert len(set(by_kind["sample"])) == look.SAMPLE
    assert [int(row["place"]) for row in rows] == list(range(len(rows)))
    by_key = {one["key"]: one for one in told}
    for row in rows:
        one = by_key[row["key"]]
        assert (row["actual"], row["predicted"]) == (CLASSES[one["label"]], CLASSES[one["model_top1"]])
        assert float(row["probability"]) == pytest.approx(one["model_prob"], abs=1e-6)
        assert float(row["nll"]) == pytest.approx(one["model_nll"], abs=1e-5)

    about = json.loads((project / "data/looks/student.json").read_text())
    assert about == {"tile": 16, "columns": 12, "tiles": len(rows), "attention": ["image", "class", "dist"]}
    sheet = np.asarray(Image.open(project / "data/samples/student-images.png"))
    index = read_index(project / f"data/index/{SET}.parquet", "val")
    model = project / "data/models/student"
    prepared = preparation_of(folder.config_of(model)["pretrained_cfg"], model)
    for place in (0, len(rows) - 1):
        row = index.keys.index(rows[place]["key"])
        expected = some_images.seen(index, project / f"data/shards/{SET}", [row], prepared.frame)[0].transpose(1, 2, 0)
        top, left = place // 12 * 16, place % 12 * 16
        assert np.array_equal(sheet[top : top + 16, left : left + 16], expected)

    before = (project / "data/samples/student-images.png").read_bytes()
    main(monkeypatch, project, look, "student", SET)
    assert (project / "data/samples/student-images.png").read_bytes() == before


def test_look__predictions_of_other_images_are_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = project / "data/predictions/student.parquet"
    table = pq.read_table(path)
    pq.write_table(table.slice(1), path, write_page_checksum=True)
    with pytest.raises(Refusal, match="is not about the val images of tiny"):
        main(monkeypatch, project, look, "student", SET)
    pq.write_table(table, path, write_page_checksum=True)
    config = project / "data/models/student/config.json"
    for damaged in ("{", "[]", "{}", config.read_text().replace("bicubic", "by hand")):
        config.write_text(damaged)
        with pytest.raises(Refusal, match=r"config\.json is missing or damaged"):
            main(monkeypatch, project, look, "student", SET)
    path.unlink()
    with pytest.raises(Refusal, match="dvc repro evaluate@student"):
        main(monkeypatch, project, look, "student", SET)


def test_look__needs_no_torch() -> None:
    """Three stages that start at once, and nothing of a model's code makes them stale."""
    files, packages = closure.closure(closure.ROOT / "stages/look.py")
    assert not packages & {"torch", "timm", "torchvision"} and {"numpy", "PIL", "pyarrow"} <= packages
    assert not any("/models/" in str(file) for file in files)


def test_sample__does_not_move_when_images_come_and_go() -> None:
    keys = [f"val/{n:03d}" for n in range(50)]
    chosen = {keys[row] for row in some_images.sample(keys, 12)}
    fewer = [key for key in keys if key in chosen or int(key[-3:]) % 2]
    assert {fewer[row] for row in some_images.sample(fewer, 12)} == chosen
    assert len(some_images.sample(keys[:5], 12)) == 5


def test_sprite__by_hand() -> None:
    tiles = np.arange(3, dtype=np.uint8)[:, None, None, None].repeat(3, 1).repeat(2, 2).repeat(2, 3) * 10
    sheet = sprite(tiles, 2)
    assert sheet.shape == (4, 4, 3)
    assert sheet[..., 0].tolist() == [[0, 0, 10, 10], [0, 0, 10, 10], [20, 20, 255, 255], [20, 20, 255, 255]]


def plain_blocks(model: torch.nn.Module) -> None:
    """Blocks that pass their tokens through: nothing is added by either branch."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("attn.proj.weight", "attn.proj.bias", "mlp.fc2.weight", "mlp.fc2.bias")):
                weight.zero_()


def test_cosines__of_a_model_that_changes_nothing_are_those_of_its_tokens() -> None:
    """Class token (3, 4, 0 ...) and distillation token (3, 4, 5, 0 ...), one of them half in its position: cosine 1 / sqrt 2."""
    torch.manual_seed(0)
    model = deit.create(TINY, 16, 3, True).eval()
    plain_blocks(model)
    with torch.no_grad():
        for token in deit.prefix(model):
            token.zero_()
        deit.positions_of(model)[:, :2] = 0
        deit.prefix(model)[0][0, 0, :2] = torch.tensor([3.0, 4.0])
        deit.prefix(model)[1][0, 0, :2] = torch.tensor([3.0, 4.0])
        deit.positions_of(model)[0, 1, 2] = 5.0
    found = token_path.cosines(model, torch.randn(2, 3, 16, 16))
    assert found.shape == (2, 4)
    assert torch.allclose(found, torch.full((2, 4), 0.5**0.5, dtype=torch.float64), atol=1e-6)


def test_cosines__agree_with_timms_own_blocks_and_tokens_that_are_equal_stay_so() -> None:
    torch.manual_seed(0)
    model, images = deit.create(TINY, 16, 3, True).eval(), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4)
    found = token_path.cosines(model, images)
    kept: list[torch.Tensor] = []
    for block in model.blocks:
        block.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    with torch.inference_mode():
        model.forward_features(images)
    for layer, tokens in enumerate(kept, start=1):
        a, b = tokens[:, 0].double(), tokens[:, 1].double()
        assert torch.allclose(found[:, layer], (a * b).sum(1) / a.norm(dim=1) / b.norm(dim=1), atol=1e-6)
    assert found[:, 1:].std() > 1e-3  # negative control: layers and images are told apart
    with torch.no_grad():
        deit.prefix(model)[1].copy_(deit.prefix(model)[0])
        deit.positions_of(model)[:, 1] = deit.positions_of(model)[:, 0]
    assert torch.allclose(token_path.cosines(model, images), torch.ones(2, 4, dtype=torch.float64), atol=1e-6)


def test_attend__writes_layers_and_maps(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main(monkeypatch, project, look, "student", SET)
    main(monkeypatch, project, attend, "student", SET)
    layers = rows_of(project / "data/plots/student-tokens.csv")
    assert [row["layer"] for row in layers] == ["0", "1", "2"]
    assert all(float(row["low"]) <= float(row["cosine"]) <= float(row["high"]) for row in layers)
    assert layers[0]["low"] == layers[0]["high"]  # no image has been seen yet
    assert layers[2]["low"] < layers[2]["high"]
    picture = np.asarray(Image.open(project / "data/samples/student-attention.png"))
    assert picture.shape == (12 * 16, 3 * 16, 3)
    sheet = np.asarray(Image.open(project / "data/samples/student-images.png"))
    rows = rows_of(project / "data/plots/student-images.csv")
    place = next(int(row["place"]) for row in rows if row["kind"] == "sample")
    top, left = place // 12 * 16, place % 12 * 16
    assert np.array_equal(
        picture[:16, :16], sheet[top : top + 16, left : left + 16]
    )  # the same images in the same order
    assert not np.array_equal(picture[:, 16:32], picture[:, 32:])
    outs = ("data/plots/student-tokens.csv", "data/samples/student-attention.png")
    before = {name: (project / name).read_bytes() for name in outs}
    main(monkeypatch, project, attend, "student", SET)
    assert {name: (project / name).read_bytes() for name in before} == before


def test_attend__without_a_distillation_token_there_is_one_map_and_no_layer(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_student(project, distilled=False, name="finetuned")
    main(monkeypatch, project, attend, "finetuned", SET)
    assert (project / "data/plots/finetuned-tokens.csv").read_text() == "layer,cosine,low,high\n"
    assert Image.open(project / "data/samples/finetuned-attention.png").size == (2 * 16, 12 * 16)
    config = folder.config_of(project / "data/models/finetuned")
    assert look.attending(config) == ["image", "class"]
    save_teacher(project)
    assert look.attending(folder.config_of(project / "data/models/teacher")) == []
    with pytest.raises(Refusal, match="only a vision transformer"):
        main(monkeypatch, project, attend, "teacher", SET)


def test_lit__the_patch_with_the_largest_share_is_brightest() -> None:
    images = np.full((1, 3, 8, 8), 100, np.uint8)
    shares = torch.tensor([[[0.1, 0.4], [0.2, 0.0]]])
    found = attend.lit(images, shares)[0].astype(int).sum(0)
    corners = [found[:4, :4], found[:4, 4:], found[4:, :4], found[4:, 4:]]
    assert all((corner == corner[0, 0]).all() for corner in corners)
    values = [int(corner[0, 0]) for corner in corners]
    assert values[3] == 3 * 40 and values[1] == max(values) and values[0] < values[2]


def test_architecture__names_say_which_have_a_distillation_token() -> None:
    """What look reads off a config: a head for each token."""
    assert architecture.classifier(TINY, 16, True)[0].startswith("deit_tiny_distilled")
    assert pa.types.is_float32(look.SCHEMA.field("model_nll").type)
