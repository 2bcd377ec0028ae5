"""What an experiment varies, as a typed form: for flows/experiment.py, and through it for Prefect's page and command line.

The form is made of the schema classes that check params.yaml: types, choices, bounds and words are theirs, so a value they refuse
is refused when an experiment is submitted. `KEYS` only says which parameters stand in the form, and by which name; `overrides`
reach every other one.
"""

import ast
import difflib
import hashlib
import inspect
import io
import itertools
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError, create_model, model_validator
from pydantic.fields import FieldInfo
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.representer import RoundTripRepresenter

from stages.lib.params.everything import Everything


class Refused(ValueError):
    """Something about an experiment that a person has to put right; the message names all of it."""


@dataclass(frozen=True)
class Key:
    """Parameters that one field of the form sets, all to the same value; the first gives type and bounds."""

    paths: tuple[str, ...]
    says: str = ""
    """Words for a parameter whose schema has none."""


MODELS: dict[str, dict[str, int]] = {
    "micro": {"width": 96, "depth": 4, "heads": 4},
    "mini": {"width": 128, "depth": 6, "heads": 4},
    "tiny": {"width": 192, "depth": 12, "heads": 3},
    "small": {"width": 384, "depth": 12, "heads": 6},
    "base": {"width": 768, "depth": 12, "heads": 12},
    "large": {"width": 1024, "depth": 24, "heads": 16},
    "huge": {"width": 1280, "depth": 32, "heads": 16},
}
"""Sizes by name: micro is params.yaml's, mini presets/tiny-imagenet.yaml's, the others DeiT's (Table 1) and MAE's."""
MODEL = "model"
MODEL_PATHS = ("train.model", "pretrain.model")
SEEDS = "seeds"
KEYS: dict[str, Key] = {
    "distill": Key(
        ("train.distill",), "What the student learns from the teacher: nothing, its probabilities or its decision."
    ),
    "alpha": Key(("train.alpha",)),
    "tau": Key(("train.tau",)),
    "init": Key(("train.init",)),
    "labels": Key(
        ("train.labels",), "live: the teacher runs beside the student; stored: it is asked once, beforehand."
    ),
    "epochs": Key(("train.views.epochs",), "Of the student's training."),
    "batch_size": Key(("train.views.batch_size",)),
    "lr": Key(("train.optimizer.lr",)),
    "weight_decay": Key(("train.optimizer.weight_decay",), "Of the student's training."),
    "drop_path": Key(("train.drop_path",)),
    "label_smoothing": Key(("train.label_smoothing",), "Of the student's training."),
    "repeats": Key(("train.views.repeats",)),
    "mixup": Key(("train.views.mixup",)),
    "cutmix": Key(("train.views.cutmix",)),
    "erase": Key(("train.views.erase",)),
    "mask_ratio": Key(("pretrain.mask_ratio",)),
    "pretrain_epochs": Key(("pretrain.epochs",), "Of the masked autoencoder."),
    "finetune_mode": Key(("finetune.mode",)),
    "finetune_epochs": Key(("finetune.views.epochs",), "Of fine-tuning at the higher resolution."),
    "transfer_model": Key(("transfer.model",)),
    SEEDS: Key(
        ("train.views.seed", "finetune.views.seed", "transfer.views.seed"),
        "Everything random from the student on. Teacher and masked autoencoder stay the same; override teacher.views.seed and "
        "pretrain.seed to vary those.",
    ),
}


class Form(BaseModel):
    """A grid: every combination of the values given. What stays empty is as params.yaml has it."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @model_validator(mode="after")
    def once(self) -> "Form":
        """Each value once: two equal experiments would be one."""
        for name, values in chosen(self).items():
            if twice := sorted({str(value) for value in values if values.count(value) > 1}):
                raise ValueError(f"{name} names {', '.join(twice)} twice; give each value once")
        return self


@dataclass(frozen=True)
class Combination:
    """One experiment of a grid."""

    name: str
    values: dict[str, Any]
    """What it varies, in the form's words, such as {"distill": "hard", "seeds": 1}."""
    changes: dict[str, Any]
    """The same by keys of params.yaml, overrides included."""
    params_text: str
    """Its params.yaml, comments kept."""


def chosen(vary: Form) -> dict[str, list[Any]]:
    """The fields of a filled-in form that have values, in the form's order."""
    return {name: getattr(vary, name) for name in type(vary).model_fields if getattr(vary, name)}


def combinations(
    params_text: str, vary: Form, overrides: Sequence[str] = (), prefix: str | None = None
) -> list[Combination]:
    """Every combination, applied to the text of params.yaml and validated whole. Raises Refused with all that is wrong in any.

    prefix: begins every name, in place of the overrides, which all have in common.
    """
    fixed = _parsed(overrides)
    fields = chosen(vary)
    if clash := [f"{path} ({name})" for name in fields for path in _paths(name) if path in fixed]:
        raise Refused(f"Both varied and overridden: {', '.join(clash)}; remove one of the two.")
    made: list[Combination] = []
    wrong: list[tuple[str, list[str]]] = []
    for values in itertools.product(*fields.values()):
        picked = dict(zip(fields, values, strict=True))
        changes = {path: value for name in picked for path, value in _changes(name, picked[name])} | fixed
        name = "_".join(filter(None, [prefix, _name(picked if prefix else picked | fixed)])) or "as-params"
        text, problems = _applied(params_text, changes)
        wrong += [(name, problems)] if problems else []
        made.append(Combination(name, picked, changes, text))
    if wrong:
        raise Refused(_told(wrong, len(made)))
    return _distinct(made)


def _parsed(overrides: Sequence[str]) -> dict[str, Any]:
    """`train.drop_path=0.1` as {"train.drop_path": 0.1}; values as DVC's -S reads them (YAML 1.2: 1e-4 is a number)."""
    found: dict[str, Any] = {}
    problems = []
    for override in overrides:
        path, equals, text = override.partition("=")
        path = path.strip()
        try:
            if not equals:
                raise Refused(f"{override!r} is not like train.drop_path=0.1")
            field_of(path)
            if path in found:
                raise Refused(f"{path} is overridden twice")
            found[path] = YAML(typ="safe").load(text)
        except Refused as error:
            problems.append(str(error))
        except YAMLError:
            problems.append(f"{override!r}: what stands behind = is no YAML value")
    if problems:
        raise Refused("\n".join(["overrides can't be used:", *(f"  {problem}" for problem in problems)]))
    return found


def field_of(path: str) -> FieldInfo | None:
    """The schema's field for a dotted key of params.yaml; None within a mapping of free names.

    Raises Refused, naming the nearest key there is.
    """
    schema: type[BaseModel] | None = Everything
    field: FieldInfo | None = None
    steps = path.split(".")
    for place, step in enumerate(steps):
        if schema is None or issubclass(schema, RootModel):
            if schema is None and field is not None:
                raise Refused(f"{path}: {'.'.join(steps[:place])} is a value and has no keys")
            return None
        if step not in schema.model_fields:
            known = list(schema.model_fields)
            near = difflib.get_close_matches(step, known, n=1, cutoff=0.5)
            meant = f"did you mean {'.'.join([*steps[:place], near[0]])}? " if near else ""
            raise Refused(f"{path} is no key of params.yaml: {meant}Known there: {', '.join(known)}")
        field = schema.model_fields[step]
        schema = _model_in(field.annotation)
    return field


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The schema class of a block, also of one that may be null."""
    for candidate in (annotation, *get_args(annotation)):
        if inspect.isclass(candidate) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _paths(name: str) -> list[str]:
    """Keys of params.yaml that a field of the form sets."""
    if name == MODEL:
        return [f"{path}.{size}" for path in MODEL_PATHS for size in next(iter(MODELS.values()))]
    return list(KEYS[name].paths)


def _changes(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Keys of params.yaml and what a field's value makes of them."""
    for path in _paths(name):
        yield path, MODELS[value][path.rsplit(".", 1)[1]] if name == MODEL else value


def _applied(params_text: str, changes: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The text with these keys set, and what is wrong with it."""
    yaml = YAML()
    yaml.width, yaml.preserve_quotes, yaml.Representer = 4096, True, _NullInWords
    data = _loaded(yaml, params_text)
    for path, value in changes.items():
        *blocks, last = path.split(".")
        place: Any = data
        for block in blocks:
            place = place.get(block) if isinstance(place, dict) else None
        if not isinstance(place, dict):
            return params_text, [f"{path}: params.yaml has no block {'.'.join(blocks)} to set it in"]
        place[last] = value
    stream = io.StringIO()
    yaml.dump(data, stream)
    text = stream.getvalue()
    try:
        Everything.model_validate(YAML(typ="safe").load(text))
    except ValidationError as error:
        return text, [_sentence(found) for found in error.errors(include_url=False)]
    return text, []


def _loaded(yaml: YAML, params_text: str) -> Any:
    """The blocks of params.yaml. Raises Refused."""
    try:
        data = yaml.load(params_text)
    except YAMLError as error:
        raise Refused(f"params.yaml is not YAML: {error}") from None
    if not isinstance(data, dict):
        raise Refused("params.yaml holds no blocks such as `train:`")
    return data


class _NullInWords(RoundTripRepresenter):
    """Writes null as people do here; ruamel leaves the place empty."""


_NullInWords.add_representer(type(None), lambda writer, _: writer.represent_scalar("tag:yaml.org,2002:null", "null"))


def _sentence(found: Any) -> str:
    """One thing wrong: where, what, and the value seen."""
    where = ".".join(str(step) for step in found["loc"])
    what = found["msg"].removeprefix("Value error, ")
    if found["type"] == "value_error":  # a sentence of our own, with its values in it
        return f"{where}: {what}" if where else what
    return f"{where} is {found['input']!r}: {what}"


def _told(wrong: Sequence[tuple[str, list[str]]], count: int) -> str:
    """Every problem once, with the combinations that have it."""
    having: dict[str, list[str]] = {}
    for name, problems in wrong:
        for problem in problems:
            having.setdefault(problem, []).append(name)
    lines = [f"{len(wrong)} of {count} combination(s) can't be run, so none was started:"]
    for problem, names in having.items():
        lines += [f"  {problem}", *(f"    in {name}" for name in names)]
    return "\n".join(lines)


def _name(values: Mapping[str, Any]) -> str:
    """`distill-hard_seed-1`: fit for a file, a git ref and a person."""
    short = {name: SEEDS[:-1] if name == SEEDS else name.rsplit(".", 1)[-1] for name in values}
    shared = {word for word in short.values() if list(short.values()).count(word) > 1}
    words = [
        f"{_word(name if short[name] in shared else short[name])}-{_word(value)}" for name, value in values.items()
    ]
    name = "_".join(words)
    return name if len(name) <= 120 else f"{name[:110]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _word(value: Any) -> str:
    text = "-".join(str(part) for part in value) if isinstance(value, list | tuple) else str(value)
    return re.sub(r"[^A-Za-z0-9_]*\.{2,}|[^A-Za-z0-9._+-]+", "-", text).strip("-.") or "empty"


def _distinct(made: Sequence[Combination]) -> list[Combination]:
    """The same with a number behind a name that another has."""
    taken: dict[str, int] = {}
    distinct = []
    for one in made:
        taken[one.name] = taken.get(one.name, 0) + 1
        name = one.name if taken[one.name] == 1 else f"{one.name}-{taken[one.name]}"
        distinct.append(Combination(name, one.values, one.changes, one.params_text))
    return distinct


def _words(path: str) -> str:
    """What the schema's source says under an attribute: pydantic keeps it only where a class asks for that."""
    *blocks, last = path.split(".")
    schema: Any = Everything
    for block in blocks:
        schema = _model_in(schema.model_fields[block].annotation)
    for owner in schema.__mro__:
        if last not in vars(owner).get("__annotations__", {}):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
        assert isinstance(body, ast.ClassDef)
        for line, following in itertools.pairwise(body.body):
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.target.id == last:
                if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                    return " ".join(str(following.value.value).split())
        return ""
    return ""


def _listed(name: str, key: Key) -> tuple[Any, Any]:
    """A field of the form: any number of values, each as the schema has it."""
    field = field_of(key.paths[0])
    assert field is not None
    element = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation  # type: ignore[misc]
    words = " ".join(filter(None, [_words(key.paths[0]), key.says, f"Sets {', '.join(key.paths)}."]))
    return _many(element, name, words)


def _many(element: Any, name: str, words: str) -> tuple[Any, Any]:
    field: Any = Field(
        default=[], title=name.replace("_", " "), description=words, json_schema_extra={"uniqueItems": True}
    )
    return (list[element], field)


def _fields() -> dict[str, Any]:
    """Of the form, in the order of KEYS; the model stands behind what the student starts from."""
    fields: dict[str, Any] = {}
    for name, key in KEYS.items():
        fields[name] = _listed(name, key)
        if name == "init":
            words = f"Size of student and masked autoencoder, patches as they are. Sets {' and '.join(MODEL_PATHS)}."
            fields[MODEL] = _many(Literal[tuple(MODELS)], MODEL, words)
    return fields


_Fields: Any = create_model("_Fields", __base__=Form, **_fields())


class Vary(_Fields):
    """A grid: every combination of the values given. What stays empty is as params.yaml has it."""
