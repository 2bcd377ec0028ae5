"""What is shown of a stage: known answers on files as the stages write them, and odd files that must not matter."""

import base64
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows import artifacts
from flows.artifacts import Shown
from stages import validate
from tests import fabricated
from tests.reporting import fabricate


def write(root: Path, name: str, text: str = "") -> str:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)
    return name


def cells(shown: Shown) -> dict[str, object]:
    return {row["metric"]: row["value"] for row in json.loads(shown.data)}


def pictures(shown: Shown) -> list[tuple[str, Image.Image]]:
    """(format, image) of what is embedded."""
    found = re.findall(r"!\[[^\]]*\]\(data:image/(\w+);base64,([^)]+)\)", shown.data)
    return [(kind, Image.open(io.BytesIO(base64.b64decode(data)))) for kind, data in found]


@pytest.mark.parametrize(
    ("kind", "stage", "expected"),
    [
        ("metrics", "evaluate@student", "metrics-evaluate-student"),
        ("images", "distill", "images-distill"),
        ("gate", "Shards_Digits.0-6", "gate-shards-digits-0-6"),
    ],
)
def test_key__is_lowercase_letters_digits_and_dashes(kind: str, stage: str, expected: str) -> None:
    assert artifacts.key(kind, stage) == expected


def test_metrics__are_flat_and_end_with_the_last_epoch(tmp_path: Path) -> None:
    values = fabricate.metrics(tmp_path / "data", "transfer-toy", "toy", classes=7, heads=2, top1=97.5)
    history = write(tmp_path, "data/history/transfer-toy.csv", "epoch,loss,val_top1\n0,1.5,80\n1,0.25,\n")
    outs = ["data/models/transfer-toy", history, "data/metrics/transfer-toy.json"]
    (shown,) = artifacts.of_stage(tmp_path, outs, "transfer@toy")
    assert (shown.kind, shown.key) == ("table", "metrics-transfer-toy")
    found = cells(shown)
    assert found["heads.fused_logits.top1"] == values["heads"]["fused_logits"]["top1"] == 97.5
    assert found["images"] == values["images"] and found["model"] == "transfer-toy"
    assert (found["last epoch: epoch"], found["last epoch: loss"]) == (1, 0.25)
    assert "last epoch: val_top1" not in found  # that epoch was not validated: an empty cell is no number


def test_gate__says_what_holds_when_all_does(tmp_path: Path) -> None:
    fabricate.gate(tmp_path / "data", "model-student")
    outs = [
        "data/gates/model-student.json",
        "data/gate-details/model-student.json",
        "data/gate-details/model-student.html",
    ]
    (shown,) = artifacts.of_stage(tmp_path, outs, "validate-model@student")
    assert (shown.kind, shown.key) == ("markdown", "gate-model-student")
    assert shown.description == "validate-model@student: model-student: all 2 expectations hold"
    assert "- ✓ tensors: label: values to be at least 0 and at most 6 · 0 to 6" in shown.data
    assert "✗" not in shown.data


def test_gate__that_is_shut_shows_what_was_expected_and_the_rows(tmp_path: Path) -> None:
    fabricate.gate(tmp_path / "data", "shards-toy", passed=False)
    (shown,) = artifacts.of_stage(tmp_path, ["data/gate-details/shards-toy.json"], "validate-shards@toy")
    assert shown.description.endswith("shards-toy: 1 of 2 expectations do not hold")
    assert "### ✗ images: label: values to be at least 0 and at most 6" in shown.data
    assert "Observed: 0 to 9; 1 of 1,082 rows differ." in shown.data
    assert "| key | split | offset | label |" in shown.data
    assert "| 3/img&lt;0042&gt; | train | 17920 | 9 |" in shown.data  # a name that looks like markup is text
    assert shown.data.index("17920") < shown.data.index("- ✓ images: split, key")  # what is broken comes first


@pytest.mark.slow  # Great Expectations takes seconds to import
def test_gate__of_the_stage_itself_names_shard_key_and_offset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(Path(__file__).parents[2] / "data/expectations", tmp_path / "data/expectations")
    monkeypatch.chdir(tmp_path)
    table = fabricated.manifest()
    fabricated.write_manifest(Path("data"), table)
    rows, listed = fabricated.write_shards(Path("data"), table)
    place = rows.iloc[7].copy()
    rows.loc[7, "label"] = 9
    fabricated.write_index(Path("data"), rows, listed)
    with pytest.raises(validate.Refusal):
        validate.validate("shards", "toy")
    (shown,) = artifacts.of_stage(tmp_path, ["data/gate-details/shards-toy.json"], "validate-shards@toy")
    assert shown.description == "validate-shards@toy: shards-toy: 2 of 25 expectations do not hold"
    named = f"| {place['key']} | {place['shard']} | {place['offset']} | {place['split']} | 9 | {place['label']} |"
    assert shown.data.count(named) == 2  # not its label in the manifest, not the one in the shard


def test_gate__shows_a_hundred_rows_and_how_many_more(tmp_path: Path) -> None:
    details = fabricate.gate(tmp_path / "data", "shards-toy", passed=False)
    one = details["expectations"][0]
    one["rows"] = [{"shard": f"toy-{n}.tar", "key": f"row{n}"} for n in range(60)]
    one["unexpected"] = 1_000_000
    details["expectations"] = [one, dict(one), {**one, "unexpected": None}]
    fabricate.write_json(tmp_path / "data/gate-details/shards-toy.json", details)
    (shown,) = artifacts.of_stage(tmp_path, ["data/gate-details/shards-toy.json"], "validate-shards@toy")
    assert shown.data.count("| toy-") == artifacts.ROWS == 100
    assert [line for line in shown.data.splitlines() if line.endswith(" more")] == [
        "and 999,940 more",
        "and 999,960 more",
        "and 60 more",
    ]


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        ({"column": "width", "min_value": 4, "max_value": None}, "width: values to be at least 4"),
        ({"column": "loss", "max_value": 0.5, "strict_max": True}, "loss: values to be below 0.5"),
        (
            {"column": "n", "min_value": 1, "max_value": 2, "row_condition": "split == 'train'", "mostly": 0.99},
            "n: values to be at least 1 and at most 2, where split == 'train', for a share of rows of at least 0.99",
        ),
    ],
)
def test_sentence__says_the_limits(one: dict[str, object], expected: str) -> None:
    assert artifacts.sentence({"type": "expect_column_values_to_be_between", "kwargs": one}) == expected


def test_sentence__of_a_set_and_a_pair() -> None:
    of_set = {"type": "expect_column_values_to_be_in_set", "kwargs": {"column": "problem", "value_set": ["", 2]}}
    pair = {"type": "expect_column_pair_values_to_be_equal", "kwargs": {"column_A": "a", "column_B": "b"}}
    assert artifacts.sentence(of_set) == "problem: values to be in set {(none), 2}"
    assert artifacts.sentence(pair) == "a, b: pair values to be equal"


def test_images__keep_their_pixels_where_they_are_small(tmp_path: Path) -> None:
    fabricate.picture(tmp_path / "data/samples/mae.png", rows=3, columns=8)
    (shown,) = artifacts.of_stage(tmp_path, ["data/samples/mae.png"], "pretrain")
    assert (shown.kind, shown.key) == ("markdown", "images-pretrain")
    ((kind, seen),) = pictures(shown)
    original = np.asarray(Image.open(tmp_path / "data/samples/mae.png").convert("RGB"))
    assert kind == "png" and "137 x 52 pixels, shown as 411 x 156" in shown.data
    assert (np.asarray(seen) == original.repeat(3, 0).repeat(3, 1)).all()


@pytest.mark.parametrize("size", [(1600, 1200), (700, 500), (300, 4000)])
def test_images__are_made_small_enough_to_be_sent_around(tmp_path: Path, size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)  # no format likes it
    Image.fromarray(noise).save(tmp_path / "one.png", compress_level=0)
    for name in ("two.png", "three.png"):
        shutil.copy(tmp_path / "one.png", tmp_path / name)
    (shown,) = artifacts.of_stage(tmp_path, ["one.png", "two.png", "three.png"], "distill")
    assert len(shown.data) < 300_000
    seen = pictures(shown)
    assert [kind for kind, _ in seen] == ["jpeg"] * 3 and shown.data.count(f"{size[0]} x {size[1]} pixels") == 3
    for _, image in seen:
        assert image.width <= artifacts.WIDE and abs(image.width / image.height - size[0] / size[1]) < 0.1


def test_odd_files__are_a_line_or_nothing_and_never_raise(tmp_path: Path) -> None:
    torn = '{"gate": "shards-toy", "exp'
    outs = [
        write(tmp_path, "data/metrics/torn.json", "{"),
        write(tmp_path, "data/metrics/nan.json", '{"loss": NaN, "list": [1, 2], "deep": [{"a": null}], "none": {}}'),
        write(tmp_path, "data/metrics/empty.json"),
        write(tmp_path, "data/history/empty.csv"),
        write(tmp_path, "data/gate-details/torn.json", torn),
        write(tmp_path, "data/gate-details/other.json", "[1, 2]"),
        write(tmp_path, "data/samples/empty.png"),
        write(tmp_path, "data/samples/text.png", "not a picture"),
        "data/metrics/missing.json",
        "data/gate-details/missing.json",
        "data/samples/missing.png",
    ]
    (tmp_path / "data/history/folder.csv").mkdir()
    shown = artifacts.of_stage(tmp_path, [*outs, "data/history/folder.csv"], "odd")
    assert [one.key for one in shown] == ["metrics-odd", "gate-torn", "gate-other", "images-odd"]
    found = cells(shown[0])
    assert found["loss"] == "nan" and found["list"] == "1, 2" and found["deep.0.a"] is None
    assert str(found["torn.json"]).startswith("cannot be shown: ") and found["empty.csv"] == "no epoch yet"
    assert "torn.json cannot be shown" in shown[1].data and "cannot be shown" in shown[2].data
    assert shown[3].data.count("cannot be shown") == 2


def test_a_stage_that_made_nothing__shows_nothing(tmp_path: Path) -> None:
    assert artifacts.of_stage(tmp_path, ["data/models/teacher", "data/metrics/gone.json"], "teacher") == []


def test_links__are_shown_where_they_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TUTELAGE_TENSORBOARD_URL", "TUTELAGE_REPORT_URL"):
        monkeypatch.delenv(name, raising=False)
    assert artifacts.links("distill") is None
    monkeypatch.setenv("TUTELAGE_REPORT_URL", "javascript:alert(1)")  # no web address
    assert artifacts.links("distill") is None
    monkeypatch.setenv("TUTELAGE_REPORT_URL", "http://reports.example/index.html")
    monkeypatch.setenv("TUTELAGE_TENSORBOARD_URL", "http://board.example:6006/")
    shown = artifacts.links("transfer@toy", Path("/anywhere/runs/transfer@toy/0123abcd"))
    assert shown is not None and (shown.kind, shown.key) == ("markdown", "links-transfer-toy")
    assert "(<http://board.example:6006/?runFilter=transfer%40toy%2F0123abcd#timeseries>)" in shown.data
    assert "(<http://reports.example/index.html>)" in shown.data
