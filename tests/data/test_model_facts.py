"""Facts about a model: spreads against numbers worked out by hand, and histories with holes."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from stages.lib.core.outcome import Refusal
from stages.lib.data import model_facts
from tests import fabricated


def test_statistics__leave_out_what_is_not_finite_and_say_how_much() -> None:
    found = model_facts.statistics(np.array([[3.0, -5.0], [np.nan, np.inf]], dtype=np.float32))
    expected = {"shape": "2 x 2", "dtype": "float32", "dimensions": 2, "elements": 4, "first_size": 2}
    assert found == expected | {"finite_share": 0.5, "max_abs": 5.0, "std": 4.0}
    assert model_facts.statistics(np.array(7))["shape"] == "scalar"
    assert model_facts.statistics(np.zeros((0, 3)))["elements"] == 0


def test_course__takes_first_and_last_of_what_was_measured(tmp_path: Path) -> None:
    (tmp_path / "h.csv").write_text("epoch,loss,val_loss,val_top1\n0,4,,\n1,2,3,\n2,1,,40\n")
    found = model_facts.course(model_facts.read_history(tmp_path / "h.csv"), 5)
    assert (found["epochs"], found["loss_first"], found["loss_last"], found["loss_ratio"]) == (3, 4, 1, 0.25)
    assert (found["val_loss_first"], found["val_loss_last"]) == (3, 3) and math.isnan(found["val_loss_ratio"])
    assert (found["val_top1"], found["chance_top1"], found["val_top1_over_chance"]) == (40, 20, 2)


def test_read__knows_heads_and_counts_what_is_learnt(tmp_path: Path) -> None:
    fabricated.write_model(tmp_path, "student", fabricated.tensors())
    folder, history = tmp_path / "models/student", tmp_path / "history/student.csv"
    facts = model_facts.read("student", folder, history)
    assert {name: set(found) for name, found in facts.items()} == {
        name: set(columns) for name, columns in model_facts.GUIDE.items()
    }
    assert facts["model"].loc[0, "parameters"] == 4 + 12 * 4 + 4 + 2 * (3 * 4 + 3)  # the batch counter is not learnt
    config = json.loads((folder / "config.json").read_text()) | {"num_classes": 5}
    (folder / "config.json").write_text(json.dumps(config))
    tensors = model_facts.read("student", folder, history)["tensors"]
    wrong = tensors[tensors["first_size"] != tensors["first_size_expected"]]
    assert list(wrong["name"]) == ["head.bias", "head.weight", "head_dist.bias", "head_dist.weight"]
    fabricated.write_safetensors(folder / "decoder.safetensors", {"mask_token": np.ones((1, 1, 4), np.float32)})
    assert "decoder.safetensors" in set(model_facts.read("student", folder, history)["tensors"]["file"])


@pytest.mark.parametrize(
    "name", ["models/student/model.safetensors", "models/student/config.json", "history/student.csv"]
)
def test_read__refuses_a_damaged_file_by_name(tmp_path: Path, name: str) -> None:
    fabricated.write_model(tmp_path, "student", fabricated.tensors())
    (tmp_path / name).write_text("loss\nhigh\n")
    with pytest.raises(Refusal, match=Path(name).name):
        model_facts.read("student", tmp_path / "models/student", tmp_path / "history/student.csv")
