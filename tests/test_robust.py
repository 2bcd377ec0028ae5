"""robust: another set of some of the main set's classes, which alone compete; every image; classes matched, never guessed."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages import robust
from stages.lib.core.outcome import Refusal
from stages.lib.data.index import read_index
from stages.lib.ingestion import index_writer
from stages.lib.params.everything import Everything
from stages.lib.training import others
from tests import test_evaluate as small
from tests.conftest import ROOT


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small set, its student twice, and the same images again as a set `art` of the classes e, b and c."""
    small.write_set(tmp_path)
    for name in robust.MODELS:
        small.save_student(tmp_path, name=name)
    (tmp_path / "data/shards/art").symlink_to(tmp_path / f"data/shards/{small.SET}")
    (tmp_path / "params.yaml").write_text(small.PARAMS.replace("WORKERS", "0").replace("FORMATS", "[timm]"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["robust", "art", small.SET])
    write_art(tmp_path, ("e", "b", "c"))
    return tmp_path


def write_art(root: Path, classes: tuple[str, ...], splits: tuple[str, ...] = ("train", "val")) -> None:
    """Its index: label = place % 3 in each split."""
    places, shards = [], {}
    for split in splits:
        index = read_index(root / f"data/index/{small.SET}.parquet", split)
        (tar,) = index.shards
        about = {"sha256": index.shard_sha256[0], "bytes": index.shard_bytes[0]}
        shards[tar] = about | {"images": len(index), "split": split}
        for row, key in enumerate(index.keys):
            where = (tar, index.offset.item(row), index.size.item(row), "0" * 64, *index.sides(row))
            places.append(index_writer.Place(key, split, row % 3, *where, 1))
    index_writer.write(root / "data/index/art.parquet", places, classes, shards)


def measured(root: Path) -> dict[str, Any]:
    robust.main()
    values: dict[str, Any] = json.loads((root / "data/metrics/robust-art.json").read_text())
    return values


def test_robust__is_what_timm_says_among_those_classes(project: Path) -> None:
    values = measured(project)
    counts = {"set": "art", "main": small.SET, "images": sum(small.COUNTS.values()), "classes": 3}
    assert {key: values[key] for key in counts} == counts and set(values) == {*counts, "student", "finetuned"}
    _, logits, _ = small.alone(project, "student")  # of the val split: rows 9 to 45 here
    labels = np.arange(small.COUNTS["val"]) % 3
    expected = logits[:, [4, 1, 2]].argmax(1).numpy() == labels
    write_art(project, ("e", "b", "c"), ("val",))
    val = measured(project)["student"]["heads"]
    assert val["fused_logits"]["top1"] == pytest.approx(100 * expected.mean(), abs=1e-4)
    assert val["fused_logits"]["top1_low"] <= val["fused_logits"]["top1"] <= val["fused_logits"]["top1_high"]
    free = logits.argmax(1).numpy() == np.array([4, 1, 2])[labels]
    assert expected.mean() > free.mean()  # negative control: with all seven classes competing it would be less
    assert "top5" not in val["class"] and values["student"] == values["finetuned"] | {
        "stamp": values["student"]["stamp"]
    }


def test_robust__the_same_classes_are_evaluates_numbers(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All seven classes in another order, every image: the top-1 of train and val together by hand."""
    small.main(monkeypatch, project, "student")
    (project / "data/index/art.parquet").write_bytes((project / f"data/index/{small.SET}.parquet").read_bytes())
    monkeypatch.setattr(sys, "argv", ["robust", "art", small.SET])
    whole = measured(project)["student"]["heads"]["class"]["top1"]
    val = json.loads((project / "data/metrics/student.json").read_text())["heads"]["class"]["top1"]
    right = whole * 46 / 100 - val * 37 / 100  # of the 9 train images
    assert right == pytest.approx(round(right), abs=1e-3) and 0 <= round(right) <= 9


def test_robust__refuses_a_class_the_models_do_not_know(project: Path) -> None:
    write_art(project, ("e", "b", "zebra"))
    with pytest.raises(Refusal, match=r"1 of the 3 classes are not those of tiny: zebra\. A robustness set"):
        robust.main()
    assert not (project / "data/metrics/robust-art.json").exists()


def test_places__by_name_by_wnid_by_number_and_never_mixed(project: Path) -> None:
    main = read_index(project / f"data/index/{small.SET}.parquet", "val")
    assert others.places(("g", "a"), main).tolist() == [6, 0]
    assert others.places(("6", "0", "3"), main).tolist() == [6, 0, 3]
    with pytest.raises(Refusal, match="all in one way"):
        others.places(("g", "0"), main)
    with pytest.raises(Refusal, match=r"1 of the 1 classes.*: 7\."):
        others.places(("7",), main)
    assert others.wnids(main) == {}
    keys = [f"train/n{1000 + label:08d}/image_{row}" for row, label in enumerate(main.labels)]
    main.__dict__["keys"] = keys  # a cached property
    assert others.places(("n00001005", "n00001000"), main).tolist() == [5, 0]
    main.__dict__["keys"] = [keys[0], *["train/x/y"] * (len(keys) - 1)]
    assert others.wnids(main) == {}  # one label without a wnid: no way to tell them apart


def test_everything__a_robustness_set_needs_a_source_and_one_part_alone() -> None:
    from pydantic import ValidationError

    from stages.lib.core import load

    values = load.parse((ROOT / "params.yaml").read_text())
    values["sets"] |= {"transfer": [], "robust": ["digits-7-9"]}
    assert Everything.model_validate(values).sets.robust == ["digits-7-9"]
    values["sets"]["transfer"] = ["digits-7-9"]
    with pytest.raises(ValidationError, match="sets names a source twice"):
        Everything.model_validate(values)
    values["sets"] |= {"transfer": [], "robust": ["art"]}
    with pytest.raises(ValidationError, match="'art', which is not in sources"):
        Everything.model_validate(values)
