"""Gates: a clean set passes without one false alarm, and each planted fault fails with exactly its own rows named."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from stages import validate
from stages.lib.core import outcome
from stages.lib.core.outcome import Refusal
from tests import fabricated

ROOT = Path(__file__).parents[1]
Broken = dict[tuple[str, str], list[Any]]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder in the current folder, with the suites of this repository."""
    shutil.copytree(ROOT / "data" / "expectations", tmp_path / "data" / "expectations")
    monkeypatch.chdir(tmp_path)
    return Path("data")


def details(gate: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path(f"data/gate-details/{gate}.json").read_text())
    return content


def broken(kind: str, name: str = "toy") -> Broken:
    """(table, columns) -> names of the rows, for every expectation that fails; the gate must stay shut."""
    with pytest.raises(Refusal):
        validate.validate(kind, name)
    found: Broken = {}
    for one in details(f"{kind}-{name}")["expectations"]:
        if not one["success"]:
            columns = [one["kwargs"][key] for key in ("column", "column_A", "column_B") if key in one["kwargs"]]
            assert one["unexpected"] == len(one["rows"]) and not one["error"]
            found[one["table"], " ".join(columns)] = [next(iter(row.values())) for row in one["rows"]]
    return found


def test_gates__pass_a_clean_set_and_leave_the_constant(data: Path) -> None:
    fabricated.write_set(data)
    for kind in ("manifest", "shards"):
        validate.validate(kind, "toy")
        assert (data / f"gates/{kind}-toy.json").read_text() == f'{{"gate": "{kind}-toy", "passed": true}}\n'
        found = details(f"{kind}-toy")
        assert found["passed"] and not found["failed"] and found["expectations"] and found["facts"]["images"] == 36
        assert all(one["unexpected"] == 0 and one["why"] for one in found["expectations"])


def test_details__are_equal_wherever_and_whenever_they_are_made(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for folder in ("here", "there"):
        shutil.copytree("data", f"{folder}/data")
        monkeypatch.chdir(folder)
        fabricated.write_set(data)
        validate.validate("shards", "toy")
        made.append([(data / f"gate-details/shards-toy.{end}").read_bytes() for end in ("json", "html")])
        monkeypatch.chdir("..")
    assert made[0] == made[1]
    assert str(Path.cwd()).encode() not in b"".join(made[0])


BEE = "val/bee/002"


def change(table: pd.DataFrame, row: str, **values: Any) -> None:
    """Set cells of the row with this key, in place."""
    place = table.index[table["key"] == row][0]
    for column, value in values.items():
        table.loc[place, column] = value


def test_manifest__names_the_row_of_each_fault_and_no_others(data: Path) -> None:
    """One fault a row, all in one manifest: none may hide another or name another's row."""
    table = fabricated.manifest()
    change(table, "train/cow/001", key="train/cow/000")
    change(table, "val/bee/000", key="val/b.ee")
    change(table, "val/bee/001", label=3)
    change(table, "val/ant/001", label=-1)
    change(table, "val/cow/001", label=0)
    change(table, "train/ant/001", split="valid")
    change(table, "train/ant/002", mode="XYZ")
    change(table, "train/ant/003", bytes=0)
    change(table, "train/ant/004", width=3)
    change(table, "train/ant/005", height=40_000)
    change(table, "train/ant/006", format="PSD")
    change(table, "train/ant/007", orientation=9)
    change(table, "train/bee/000", sha256="?")
    fabricated.write_manifest(data, table)
    assert broken("manifest") == {
        ("images", "key"): ["val/b.ee"],  # as unique, see below, and as what may stand in a tar
        ("images", "listed_classes label"): ["val/bee/001"],
        ("images", "label"): ["val/ant/001"],
        ("images", "class_name listed_name"): ["val/cow/001"],
        ("images", "split"): ["train/ant/001"],
        ("images", "mode"): ["train/ant/002"],
        ("images", "bytes"): ["train/ant/003"],
        ("images", "width"): ["train/ant/004"],
        ("images", "height"): ["train/ant/005"],
        ("images", "format"): ["train/ant/006"],
        ("images", "orientation"): ["train/ant/007"],
        ("images", "sha256"): ["train/bee/000"],
    }
    unique = details("manifest-toy")["expectations"][0]
    assert [row["member"] for row in unique["rows"]] == ["train/cow/000.png", "train/cow/001.png"]


def test_manifest__names_a_class_or_split_that_is_missing(data: Path) -> None:
    table = fabricated.manifest()
    fabricated.write_manifest(data, table[~table["key"].str.startswith("val/bee/")].reset_index(drop=True))
    assert broken("manifest") == {("classes", "images"): ["val"]}
    (failed,) = [one for one in details("manifest-toy")["expectations"] if not one["success"]]
    assert failed["rows"] == [{"split": "val", "class_name": "bee", "images": 0}]
    fabricated.write_manifest(data, table[table["split"] == "train"].reset_index(drop=True))
    assert broken("manifest") == {("set", "val_images"): ["toy"]}


def test_manifest__names_both_sides_of_bytes_shared_between_splits(data: Path) -> None:
    table = fabricated.manifest()
    sha256 = table.set_index("key")["sha256"]
    change(table, "train/ant/001", sha256=sha256["train/ant/000"])  # one copy inside train: 1 in 36 is allowed
    fabricated.write_manifest(data, table)
    validate.validate("manifest", "toy")
    change(table, BEE, sha256=sha256["train/ant/000"])
    fabricated.write_manifest(data, table)
    assert broken("manifest") == {("images", "same_bytes_in"): [BEE]}
    (failed,) = [one for one in details("manifest-toy")["expectations"] if not one["success"]]
    assert failed["rows"][0]["same_bytes_in"] == "train train/ant/000"


def test_shards__an_index_row_missing_or_doubled_is_named_with_its_place(data: Path) -> None:
    rows, listed = fabricated.write_set(data)
    place = rows.set_index("key").loc[BEE]
    counts = {
        ("shards", "images images_in_index"): [place["shard"]],
        ("shards", "images_listed images_in_index"): [place["shard"]],
        ("splits", "images_in_manifest images_in_index"): ["val"],
        ("splits", "images_in_index images_in_shards"): ["val"],
        ("splits", "images_in_index images_in_info"): ["val"],
    }
    fabricated.write_index(data, rows[rows["key"] != BEE], listed)
    assert broken("shards") == counts | {("images", "times_in_index"): [BEE]}
    found = details("shards-toy")["expectations"]
    (failed,) = [one for one in found if one["table"] == "images" and not one["success"]]
    named = {"key": BEE, "shard": place["shard"], "offset": place["offset"], "split": "val", "times_in_index": 0}
    assert failed["rows"] == [named]
    fabricated.write_index(data, pd.concat([rows, rows[rows["key"] == BEE]]), listed)
    assert broken("shards") == counts | {("images", "times_in_index"): [BEE, BEE]}


def test_shards__one_flipped_byte_is_found_and_named(data: Path) -> None:
    rows, _ = fabricated.write_set(data)
    place = rows.set_index("key").loc[BEE]
    path = data / "shards/toy" / place["shard"]
    flip(path, place["offset"] + place["size"] - 1)
    assert broken("shards") == {
        ("images", "stored_bytes_match"): [BEE],
        ("shards", "sha256 sha256_in_index"): [path.name],
    }
    flip(path, place["offset"] + place["size"] - 1)  # and back
    validate.validate("shards", "toy")
    label = path.read_bytes().index(b"val/bee/002.cls") + 512
    flip(path, label)  # 1 becomes 0: the image is whole, other readers see another class
    assert broken("shards") == {
        ("images", "label label_in_shard"): [BEE],
        ("shards", "sha256 sha256_in_index"): [path.name],
    }


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_shards__a_truncated_tar_names_what_was_lost(data: Path) -> None:
    rows, _ = fabricated.write_set(data)
    last = rows[rows["shard"] == rows.loc[0, "shard"]].iloc[-2:]
    path = data / "shards/toy" / last.iloc[0]["shard"]
    with path.open("r+b") as file:
        file.truncate(int(last.iloc[0]["offset"]) + 10)  # inside the last image but one
    found = broken("shards")
    assert found["images", "stored_bytes_match"] == list(last["key"])
    assert found["images", "times_in_shards"] == [last.iloc[1]["key"]]
    assert {columns for table, columns in found if table == "shards"} == {
        "problem",
        "bytes bytes_in_index",
        "sha256 sha256_in_index",
        "images images_in_index",
        "images images_in_info",
    }
    assert all(names == [path.name] for (table, _), names in found.items() if table == "shards")


def test_shards__a_lost_and_a_stray_tar_are_named(data: Path) -> None:
    rows, _ = fabricated.write_set(data)
    lost, stray = data / "shards/toy" / rows.loc[0, "shard"], data / "shards/toy/toy-train-000009.tar"
    lost.rename(stray)  # the same images, under a name the index does not know
    found = broken("shards")
    assert found["images", "stored_bytes_match"] == list(rows.loc[rows["shard"] == lost.name, "key"])
    assert ("images", "times_in_shards") not in found
    assert found["shards", "sha256 sha256_in_index"] == [lost.name, stray.name]
    assert found["shards", "problem"] == [lost.name]


def test_shards__index_and_manifest_that_disagree_are_named(data: Path) -> None:
    fabricated.write_set(data)
    table = fabricated.manifest()
    change(table, BEE, label=0, stored_bytes=1)
    change(table, "train/cow/003", stored_sha256="0" * 64, split="val")
    fabricated.write_manifest(data, table)
    assert broken("shards") == {
        ("images", "label label_in_manifest"): [BEE],
        ("images", "size stored_bytes_in_manifest"): [BEE],
        ("images", "sha256 stored_sha256_in_manifest"): ["train/cow/003"],
        ("images", "split split_in_manifest"): ["train/cow/003"],
        ("splits", "images_in_manifest images_in_index"): ["train", "val"],
    }


def test_models__pass_where_nothing_is_wrong(data: Path) -> None:
    for name in ("teacher", "student", "finetuned", "mae"):
        fabricated.write_model(data, name, fabricated.tensors(), classes=0 if name == "mae" else 3)
        validate.validate("model", name)
    fabricated.write_model(data, "teacher", fabricated.tensors(), "epoch,loss,lr,val_loss,val_top1\n0,,,0.5,90\n")
    validate.validate("model", "teacher")  # a fetched one was not trained here: its loss is empty
    assert details("model-teacher")["facts"]["val_top1_over_chance"] == pytest.approx(2.7)


def history(losses: tuple[float, float], top1: float) -> str:
    return f"epoch,loss,lr,val_loss,val_top1\n0,{losses[0]},0,,\n1,{losses[1]},0,1.0,{top1}\n"


def test_model__tensors_that_are_not_finite_constant_or_misshapen_are_named(data: Path) -> None:
    weights = fabricated.tensors()
    weights["blocks.0.attn.qkv.weight"][3, 1] = np.nan
    weights["norm.weight"][0] = 1e9
    weights["head_dist.weight"][:] = 0.5
    weights["head.bias"] = weights["head.bias"][:2]
    fabricated.write_model(data, "student", weights)
    with pytest.raises(Refusal, match=r"blocks\.0\.attn\.qkv\.weight.*finite_share 0\.979"):
        validate.validate("model", "student")
    named = {
        one["kwargs"].get("column", "rows"): [row["name"] for row in one["rows"]]
        for one in details("model-student")["expectations"]
        if not one["success"]
    }
    assert named == {
        "finite_share": ["blocks.0.attn.qkv.weight"],
        "max_abs": ["norm.weight"],
        "std": ["head_dist.weight"],
        "rows": ["head.bias"],
    }


@pytest.mark.parametrize(
    ("name", "losses", "top1", "expected"),
    [
        ("student", (1.0, 0.999), 51.0, {}),
        ("student", (1.0, 1.001), 51.0, {("model", "loss_ratio"): ["student"]}),
        ("student", (1.0, 0.5), 100 / 3, {("model", "val_top1_over_chance"): ["student"]}),
        ("student", (1.0, 0.5), 101.0, {("model", "val_top1"): ["student"]}),
        ("teacher", (1.0, 1.2), 60.0, {("model", "loss_ratio"): ["teacher"]}),
        ("finetuned", (1.0, 1.04), 51.0, {}),
        ("finetuned", (1.0, 1.06), 51.0, {("model", "loss_ratio"): ["finetuned"]}),
    ],
)
def test_model__loss_and_accuracy_have_limits(
    data: Path, name: str, losses: tuple[float, float], top1: float, expected: Broken
) -> None:
    fabricated.write_model(data, name, fabricated.tensors(), history(losses, top1))
    if expected:
        assert broken("model", name) == expected
    else:
        validate.validate("model", name)


def test_model__losses_that_are_no_number_are_counted(data: Path) -> None:
    text = "epoch,loss,lr,val_loss,val_top1\n0,2,0,,\n1,nan,0,inf,\n2,1,0,1,90\n"
    fabricated.write_model(data, "student", fabricated.tensors(), text)
    assert broken("model", "student") == {("model", "losses_not_finite"): ["student"]}
    assert details("model-student")["facts"]["losses_not_finite"] == 2


def test_failed_gate__leaves_a_page_and_no_constant_and_says_what_to_do(data: Path) -> None:
    fabricated.write_manifest(data, fabricated.manifest())
    validate.validate("manifest", "toy")
    table = fabricated.manifest()
    table["mode"] = "<XYZ>"
    fabricated.write_manifest(data, table)
    with pytest.raises(Refusal) as refused:
        validate.validate("manifest", "toy")
    assert not (data / "gates/manifest-toy.json").exists()
    for part in (
        "stays shut",
        "1 of 22",
        "36 of 36 rows, 20 of them shown",
        "train/ant/000",
        "and 31 more",
        "data/expectations/manifest.json",
    ):
        assert part in str(refused.value)
    page = (data / "gate-details/manifest-toy.html").read_text()
    assert "&lt;XYZ&gt;" in page and "<XYZ>" not in page and "20 of them shown" in page
    (failed,) = [one for one in details("manifest-toy")["expectations"] if not one["success"]]
    assert (failed["unexpected"], len(failed["rows"])) == (36, 20)


def edit(data: Path, change_of: Callable[[dict[str, Any]], Any]) -> None:
    """Edit data/expectations/manifest.json as a person would."""
    path = data / "expectations/manifest.json"
    content = json.loads(path.read_text())
    change_of(content["tables"])
    path.write_text(json.dumps(content))


def test_limit__edited_lets_the_same_data_pass_with_the_same_constant(data: Path) -> None:
    table = fabricated.manifest()
    fabricated.write_manifest(data, table)
    validate.validate("manifest", "toy")
    constant = (data / "gates/manifest-toy.json").read_bytes()
    change(table, BEE, width=3)
    fabricated.write_manifest(data, table)
    assert broken("manifest")
    edit(
        data,
        lambda tables: next(one for one in tables["images"] if one["kwargs"].get("column") == "width")["kwargs"].update(
            min_value=3
        ),
    )
    validate.validate("manifest", "toy")
    assert (data / "gates/manifest-toy.json").read_bytes() == constant


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        (lambda t: t.update(image=t.pop("images")), "no table 'image'. Did you mean images"),
        (
            lambda t: t["images"][0]["kwargs"].update(column="keys"),
            "images, expectation 1: there is no column 'keys'. Did you mean key",
        ),
        (
            lambda t: t["set"][0].update(type="expect_column_value_to_be_between"),
            "Did you mean expect_column_values_to_be_between",
        ),
        (lambda t: t["set"][0]["kwargs"].update(min=3), "min; *extra fields not permitted"),
        (lambda t: t["images"][5]["kwargs"].update(row_condition="lable > 0"), "'lable' is not defined"),
        (lambda t: t["images"][0].update(why="?"), "and nothing else"),
    ],
)
def test_suite__a_slip_is_named_with_what_was_meant(data: Path, mistake: Callable[[Any], Any], said: str) -> None:
    fabricated.write_manifest(data, fabricated.manifest())
    edit(data, mistake)
    with pytest.raises(Refusal, match=said.replace("?", r"\?")):
        validate.validate("manifest", "toy")
    assert not (data / "gates/manifest-toy.json").exists()


def test_expectation__that_cannot_be_evaluated_keeps_the_gate_shut(data: Path) -> None:
    fabricated.write_manifest(data, fabricated.manifest())
    text = {"type": "expect_column_values_to_be_between", "kwargs": {"column": "class_name", "max_value": 3}}
    edit(data, lambda tables: tables["images"].append(text))
    with pytest.raises(Refusal, match=r"could not be evaluated: .*same type"):
        validate.validate("manifest", "toy")


def test_main__refuses_with_its_exit_code_and_record(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTELAGE_RUNS", "runs")
    fabricated.write_manifest(data, fabricated.manifest())
    for arguments, stage, code in (
        (["manifest", "toy"], "validate-manifest@toy", 0),
        (["manifest", "boy"], "validate-manifest@boy", 2),
        (["manifests", "toy"], "validate-manifests@toy", 2),
    ):
        monkeypatch.setattr(sys, "argv", ["validate", *arguments])
        with pytest.raises(SystemExit) as left:
            outcome.run(stage, validate.main)
        ending = json.loads(Path(f"runs/{stage}/last_exit.json").read_text())
        assert left.value.code == ending["code"] == code and not ending["retryable"]
    assert "manifest has: toy" in json.loads(Path("runs/validate-manifest@boy/last_exit.json").read_text())["reason"]


def test_import__needs_neither_torch_nor_great_expectations() -> None:
    code = (
        "import sys, stages.validate; print([m for m in ('torch', 'timm', 'great_expectations') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
