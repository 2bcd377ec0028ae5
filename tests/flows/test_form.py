"""The experiment form: made of the schemas, refused when submitted, and what a grid makes of params.yaml."""

import inspect
import json
from typing import Any

import pytest
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import validate
from pydantic import ValidationError
from ruamel.yaml import YAML

from flows import form
from flows.form import Refused, Vary, combinations
from stages.lib.params.everything import Everything
from tests.flows.tiny_project import ROOT

PARAMS = (ROOT / "params.yaml").read_text()


def flow(vary: Vary = Vary()) -> None:  # noqa: B008
    """Something with the form as its parameter, as Prefect sees it."""


SCHEMA = parameter_schema(flow).model_dump_for_openapi()


def said(**values: Any) -> list[str]:
    """What Prefect's API says to a form filled in so, as sent over the wire."""
    return [error.message for error in validate(json.loads(json.dumps({"vary": values})), SCHEMA)]


def block(text: str, path: str) -> Any:
    value = YAML(typ="safe").load(text)
    for step in path.split("."):
        value = value[step]
    return value


def test_form__good_values_pass_at_submission() -> None:
    assert said() == []
    assert said(distill=["hard", "soft"], alpha=[0, 0.5, 1], tau=[3], lr=[1e-4], seeds=[0, 1], model=["tiny"]) == []


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"distill": ["banana"]}, "'banana' is not one of ['none', 'soft', 'hard']"),
        ({"alpha": [7]}, "7 is greater than the maximum of 1"),
        ({"distil": ["hard"]}, "Additional properties are not allowed ('distil' was unexpected)"),
        ({"seeds": [-1]}, "-1 is less than the minimum of 0"),
        ({"seeds": [2**32]}, "4294967296 is greater than or equal to the maximum of 4294967296"),
        ({"mask_ratio": [1]}, "1 is greater than or equal to the maximum of 1"),
        ({"epochs": [2.5]}, "2.5 is not of type 'integer'"),
        ({"lr": ["1e-4"]}, "'1e-4' is not of type 'number'"),
        ({"model": ["deit"]}, "'deit' is not one of ['micro', 'mini', 'tiny', 'small', 'base', 'large', 'huge']"),
        ({"distill": "hard"}, "'hard' is not of type 'array'"),
        ({"tau": [1, 1]}, "[1, 1] has non-unique elements"),
    ],
)
def test_form__bad_values_are_refused_at_submission_and_by_the_flow(values: dict[str, Any], words: str) -> None:
    assert words in said(**values)
    with pytest.raises(ValidationError):
        Vary(**values)


def test_form__values_survive_the_wire() -> None:
    """JSON makes 3.0 of a float 3: strict schemas take it, and params.yaml gets a float again."""
    vary = Vary(tau=[3.0, 1], seeds=[1], distill=["soft"])
    again = Vary.model_validate(json.loads(json.dumps(json.loads(vary.model_dump_json()))))
    assert again == vary
    sent = Vary.model_validate(json.loads('{"tau": [3], "alpha": [1]}'))
    (one,) = combinations(PARAMS, sent)
    assert "  tau: 3.0 " in one.params_text and "  alpha: 1.0\n" in one.params_text


def test_form__types_bounds_and_words_are_the_schemas_own() -> None:
    """No parameter is described twice: what a block's schema says is what the form says."""
    schema = Everything.model_json_schema()

    def node(path: str) -> dict[str, Any]:
        found = schema
        for step in path.split("."):
            found = found["properties"][step]
            found = schema["$defs"][found["$ref"].rsplit("/", 1)[1]] if "$ref" in found else found
        return found

    properties = Vary.model_json_schema()["properties"]
    assert set(properties) == {*form.KEYS, "model"}
    for name, key in form.KEYS.items():
        expected = {what: value for what, value in node(key.paths[0]).items() if what not in ("title", "default")}
        assert properties[name]["items"] == expected, name
        assert properties[name]["description"].endswith(f"Sets {', '.join(key.paths)}.")
        for path in key.paths[1:]:
            others = {what: value for what, value in node(path).items() if what not in ("title", "default")}
            assert others == expected, path
    assert properties["alpha"]["description"].startswith("Weight of the teacher's term (hard: 0.5")


@pytest.mark.parametrize("path", sorted((ROOT / "presets").glob("*.yaml")), ids=lambda path: path.stem)
def test_models__name_every_presets_sizes(path: Any) -> None:
    model = block(path.read_text(), "train.model")
    sizes = {key: model[key] for key in ("width", "depth", "heads")}  # what a name sets; layer scale and the like stay
    assert sizes in form.MODELS.values()
    name = path.stem.rsplit("-", 1)[-1]
    assert name not in form.MODELS or form.MODELS[name] == sizes


@pytest.mark.parametrize(
    "path", [ROOT / "params.yaml", *sorted((ROOT / "presets").glob("*.yaml"))], ids=lambda p: p.stem
)
def test_combinations__without_a_change_not_a_byte_moves(path: Any) -> None:
    text = path.read_text()
    (one,) = combinations(text, Vary())
    assert one.params_text == text and one.name == "as-params" and one.changes == one.values == {}


def test_combinations__the_grid() -> None:
    made = combinations(PARAMS, Vary(seeds=[0, 1], distill=["soft", "hard"]), ["train.compile=true"])
    assert [one.name for one in made] == [
        "distill-soft_seed-0_compile-True",
        "distill-soft_seed-1_compile-True",
        "distill-hard_seed-0_compile-True",
        "distill-hard_seed-1_compile-True",
    ]
    second = made[1]
    assert second.values == {"distill": "soft", "seeds": 1}
    assert second.changes == {
        "train.distill": "soft",
        "train.views.seed": 1,
        "finetune.views.seed": 1,
        "transfer.views.seed": 1,
        "train.compile": True,
    }
    assert all(block(second.params_text, path) == value for path, value in second.changes.items())
    assert "# DeiT eq. 3" in second.params_text and "teacher.views.seed" not in second.changes
    changed = set(second.params_text.splitlines()) - set(PARAMS.splitlines())
    assert changed == {"  distill: soft           # DeiT eq. 3", "    seed: 1", "  compile: true"} - set(
        PARAMS.splitlines()
    )


def test_combinations__a_model_is_the_encoders_size_too() -> None:
    (one,) = combinations(PARAMS, Vary(model=["tiny"], init=["mae"]))
    sizes = {"patch_size": 4, "width": 192, "depth": 12, "heads": 3}
    assert block(one.params_text, "train.model") == block(one.params_text, "pretrain.model") == sizes


def test_combinations__all_problems_of_all_are_told_before_anything_runs() -> None:
    with pytest.raises(Refused) as caught:
        combinations(PARAMS, Vary(batch_size=[64, 33], distill=["hard", "soft"]), ["finetune.views.image_size=23"])
    text = str(caught.value)
    assert text.startswith("4 of 4 combination(s) can't be run, so none was started:\n")
    assert text.count("mix_group 32 must be even and divide batch_size 33") == 1
    with pytest.raises(Refused) as caught:
        combinations(PARAMS, Vary(labels=["live", "stored"], distill=["hard", "soft"], batch_size=[64, 33]))
    text = str(caught.value)
    assert text.startswith("5 of 8 combination(s) can't be run")
    assert "mix_group 32 must be even" in text and "distill: soft with labels: stored needs labelling.top_k" in text
    assert "    in distill-soft_labels-stored_batch_size-64" in text


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "train.dropp_path=0.1",
            "train.dropp_path is no key of params.yaml: did you mean train.drop_path? Known there: ",
        ),
        ("trian.alpha=0.1", "trian.alpha is no key of params.yaml: did you mean train? "),
        ("train.alpha.x=1", "train.alpha.x: train.alpha is a value and has no keys"),
        ("train.alpha", "'train.alpha' is not like train.drop_path=0.1"),
        ("train.alpha=[", "what stands behind = is no YAML value"),
    ],
)
def test_overrides__what_is_no_key_is_refused_with_the_nearest(override: str, words: str) -> None:
    with pytest.raises(Refused) as caught:
        combinations(PARAMS, Vary(), ["train.tau=2.0", override])
    assert words in str(caught.value)


def test_overrides__read_as_dvc_reads_them() -> None:
    overrides = [
        "train.optimizer.lr=1e-4",
        "train.views.scale=[0.2, 1.0]",
        "train.views.crop=padded",
        "teacher.sha256=null",
        "sources.digits-0-6.path=elsewhere",
    ]
    (one,) = combinations(PARAMS, Vary(), overrides)
    assert one.changes["train.optimizer.lr"] == 1e-4 and one.changes["train.views.scale"] == [0.2, 1.0]
    assert one.changes["teacher.sha256"] is None and "  sha256: null\n" in one.params_text
    assert one.name.startswith("lr-0.0001_scale-0.2-1.0_crop-padded_")
    with pytest.raises(Refused, match=r"train\.alpha is '0\.1': Input should be a valid number"):
        combinations(PARAMS, Vary(), ['train.alpha="0.1"'])
    with pytest.raises(Refused, match="overridden twice"):
        combinations(PARAMS, Vary(), ["train.tau=2.0", "train.tau=3.0"])
    with pytest.raises(Refused, match=r"Both varied and overridden: train\.tau \(tau\)"):
        combinations(PARAMS, Vary(tau=[2.0]), ["train.tau=3.0"])


def test_names__are_git_refs_and_unique() -> None:
    overrides = ["report.title='a/b: c..d'", f"evaluate.batch_size={10**9}"]
    (one,) = combinations(PARAMS, Vary(), overrides)
    assert one.name == "title-a-b-c-d_batch_size-1000000000"
    (both,) = combinations(PARAMS, Vary(epochs=[30]), ["teacher.views.epochs=3", "pretrain.epochs=5", "train.tau=2.0"])
    assert both.name == "epochs-30_teacher.views.epochs-3_pretrain.epochs-5_tau-2.0"
    named = combinations(PARAMS, Vary(epochs=[30]), ["train.tau=2.0"], "mine")
    bare = combinations(PARAMS, Vary(), ["train.tau=2.0"], "mine")
    assert [one.name for one in (*named, *bare)] == ["mine_epochs-30", "mine"]
    title = f"report.title={'long ' * 20}"
    (long,) = combinations(PARAMS, Vary(), [title, "evaluate.batch_size=123"])
    (other,) = combinations(PARAMS, Vary(), [title, "evaluate.batch_size=124"])
    assert len(long.name) <= 120 and long.name != other.name
    many = combinations(PARAMS, Vary(lr=[0.1, 0.2]))
    assert [one.name for one in many] == ["lr-0.1", "lr-0.2"]


def test_form__imports_nothing_heavy() -> None:
    source = inspect.getsource(form)
    assert "prefect" not in source.replace("Prefect", "") and "torch" not in source
