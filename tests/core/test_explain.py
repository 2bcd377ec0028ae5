"""What a person reads when a value is wrong: path, value, what is allowed, the nearest name, how to write it."""

from typing import Annotated, Literal

import pytest
from pydantic import Field, RootModel, StringConstraints, ValidationError, model_validator

from stages.lib.core import explain, load
from stages.lib.params.frozen import Frozen

Name = Annotated[str, StringConstraints(pattern=r"^[a-z]+$")]


class Inner(Frozen):
    rate: Annotated[float, Field(gt=0, lt=1)]


class Block(Frozen):
    kind: Literal["none", "soft", "hard"] = "none"
    epochs: Annotated[int, Field(ge=1)] = 1
    width: Annotated[int, Field(ge=4, multiple_of=4)] = 4
    share: Annotated[float, Field(ge=0, le=1)] = 0.5
    flag: bool = True
    title: Annotated[str, StringConstraints(min_length=1)] = "x"
    pair: Annotated[tuple[float, float], Field(strict=False)] = (0.0, 1.0)
    names: Annotated[list[Name], Field(default_factory=list)]
    maybe: Inner | None = None
    inner: Inner = Inner(rate=0.5)
    table: Annotated[dict[Name, int], Field(default_factory=dict)]

    @model_validator(mode="after")
    def agrees(self) -> "Block":
        """A rule between two keys."""
        if self.epochs > 100:
            raise ValueError(f"epochs {self.epochs} is more than 100")
        return self


class Table(RootModel[dict[Name, Inner]]):
    """Names -> inner blocks."""


def problems(text: str, schema: type = Block, path: tuple[str, ...] = ("train",)) -> list[str]:
    """What is said of this YAML as the block `train`."""
    try:
        schema.model_validate(load.parse(text))
    except ValidationError as error:
        return explain.problems(error, schema, path)
    return []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: banana", "train.kind is 'banana'; allowed: none, soft or hard."),
        ("kind: hart", "train.kind is 'hart'; allowed: none, soft or hard. Did you mean 'hard'?"),
        (
            "kind: false",
            "train.kind is false; allowed: none, soft or hard. "
            "(`dvc exp run -S` writes false for off and no, true for on and yes.)",
        ),
        ("epochs: 0", "train.epochs is 0; allowed: a whole number of at least 1."),
        ("epochs: 3.0", "train.epochs is 3.0; allowed: a whole number of at least 1. Write 3."),
        ("epochs: 3.5", "train.epochs is 3.5; allowed: a whole number of at least 1."),
        (
            "width: 6",
            "train.width is 6; allowed: a whole number of at least 4 and that is a multiple of 4.",
        ),
        ("share: 1.5", "train.share is 1.5; allowed: a number of at least 0 and of at most 1."),
        (
            "share: '0.1'",
            "train.share is '0.1'; allowed: a number of at least 0 and of at most 1. "
            "'0.1' is text; write 0.1 without quotes.",
        ),
        ("share: much", "train.share is 'much'; allowed: a number of at least 0 and of at most 1."),
        ("share:", "train.share is empty (null); allowed: a number of at least 0 and of at most 1."),
        ("share: .inf", "train.share is inf; allowed: a number of at least 0 and of at most 1."),
        ("flag: off", "train.flag is 'off'; allowed: true or false."),
        ("title: 3.1", "train.title is 3.1; allowed: text, not empty. Write it in quotes."),
        ("title: ''", "train.title is ''; allowed: text, not empty."),
        ("pair: [1]", "train.pair is [1]; allowed: a list of 2, each a number."),
        ("pair: [1, 2, 3]", "train.pair is [1, 2, 3]; allowed: a list of 2, each a number."),
        ("pair: [1, x]", "train.pair.1 is 'x'; allowed: a number."),
        ("names: abc", "train.names is 'abc'; allowed: a list, each text matching ^[a-z]+$. Write [abc]."),
        ("names: [Abc]", "train.names.0 is 'Abc'; allowed: text matching ^[a-z]+$."),
        ("maybe: 3", "train.maybe is 3; allowed: null, or a block with the keys rate."),
        ("maybe: {}", "train.maybe.rate is missing; it must be a number above 0 and below 1."),
        ("inner:", "train.inner is empty (null); allowed: a block with the keys rate."),
        ("inner: {rate: 1}", "train.inner.rate is 1; allowed: a number above 0 and below 1."),
        ("table: {Big: 1}", "train.table.Big: a name here matches ^[a-z]+$."),
        ("epochs: 101", "train: epochs 101 is more than 100."),
    ],
)
def test_problems__one_sentence(text: str, said: str) -> None:
    assert problems(text) == [said]


def test_problems__a_mistyped_key_names_the_nearest_and_all() -> None:
    (said,) = problems("epoch: 3")
    assert said.startswith("train.epoch is an unknown key. Did you mean 'epochs'? Known here: kind, epochs, width, ")
    (far,) = problems("zzz: 3")
    assert "Did you mean" not in far


def test_problems__all_at_once_and_unknown_keys_first() -> None:
    said = problems("{epochs: 0, share: 2, inner: {rat: 0.5}, kind: banana}")
    assert [line.split(" ")[0] for line in said] == [
        "train.inner.rat",
        "train.kind",
        "train.epochs",
        "train.share",
        "train.inner.rate",
    ]


def test_problems__of_a_file_and_of_a_mapping() -> None:
    assert problems("tabel: {}", Block, ()) == [
        "tabel is an unknown block. Did you mean 'table'? Known here: kind, epochs, width, share, flag, title, pair, names, "
        "maybe, inner, table."
    ]
    assert problems("epochs: 101", Block, ()) == ["epochs 101 is more than 100."]
    assert problems("a: {rate: 2}", Table, ("sources",)) == [
        "sources.a.rate is 2; allowed: a number above 0 and below 1."
    ]
    assert problems("3: {rate: 0.5}", Table, ("sources",))


def test_problems__nothing_wrong_says_nothing() -> None:
    assert problems("{}") == []
