"""params.yaml as DVC reads it: values, blocks, syntax errors."""

import itertools
from pathlib import Path

import pytest
from dvc.utils.serialize import parse_yaml
from pydantic import RootModel

from stages.lib.core import load
from stages.lib.core.outcome import Refusal
from stages.lib.params.frozen import Frozen


class Lamp(Frozen):
    watts: float
    switch: str = "off"


class Lamps(RootModel[dict[str, Lamp]]):
    """A block that is a mapping of names."""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Path":
    """An empty folder to put params.yaml in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "params.yaml"


def refusal(text: str | bytes, path: Path, block: str = "lamp") -> str:
    """What load says of a params.yaml with this content."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(Refusal) as caught:
        load.load(block, Lamp)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1.5e-3", 1.5e-3),
        ("off", "off"),
        ("on", "on"),
        ("no", "no"),
        ("yes", "yes"),
        ("true", True),
        ("~", None),
        ("010", 10),
        ("1:30", "1:30"),
        ("[0.9, 0.95]", [0.9, 0.95]),
    ],
)
def test_parse__is_yaml_1_2_as_dvc_reads_it(text: str, value: object) -> None:
    assert load.parse(f"key: {text}") == {"key": value} == parse_yaml(f"key: {text}", "params.yaml")
    assert type(load.parse(f"key: {text}")["key"]) is type(value)


def test_load__one_block(write: Path) -> None:
    write.write_text("lamp: {watts: 1e-4}\nnonsense: [1, 2]\n")
    lamp = load.load("lamp", Lamp)
    assert lamp == Lamp(watts=1e-4)
    assert isinstance(lamp.watts, float)
    with pytest.raises(ValueError, match="frozen"):
        lamp.watts = 2.0  # type: ignore[misc]


def test_load__whole_numbers_serve_as_numbers_but_not_the_reverse(write: Path) -> None:
    write.write_text("lamp: {watts: 60}\n")
    assert load.load("lamp", Lamp).watts == 60.0


def test_load__a_mapping_block_and_one_of_its_entries(write: Path) -> None:
    write.write_text("lamps:\n  desk: {watts: 7, switch: off}\n  floor: {watts: 12}\n")
    assert set(load.load("lamps", Lamps).root) == {"desk", "floor"}
    assert load.load_item("lamps", "desk", Lamp) == Lamp(watts=7.0, switch="off")
    with pytest.raises(Refusal) as caught:
        load.load_item("lamps", "desc", Lamp)
    assert "lamps has no entry 'desc'. Did you mean 'desk'? It has: desk, floor." in str(caught.value)
    with pytest.raises(Refusal) as caught:
        load.load_item("lamps", "desk", Lamps)
    assert "lamps.desk.watts" in str(caught.value)


def test_whole__validates_the_file_it_is_given(tmp_path: Path) -> None:
    path = tmp_path / "other.yaml"
    path.write_text("desk: {watts: 7}\n")
    assert load.whole(Lamps, path).root["desk"].watts == 7.0


def test_load__a_missing_block_is_named_with_the_nearest(write: Path) -> None:
    said = refusal("lam: {watts: 1}\nother: 1\n", write)
    assert "params.yaml has no block `lamp:`. Did you mean 'lam'? It has: lam, other." in said
    assert "git checkout params.yaml" in said


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n"])
def test_load__an_empty_file(write: Path, text: str) -> None:
    assert "params.yaml is empty" in refusal(text, write)


@pytest.mark.parametrize("text", ["- 1\n", "hello\n", "3\n"])
def test_load__a_file_without_blocks(write: Path, text: str) -> None:
    assert "holds no blocks" in refusal(text, write)


def test_load__a_missing_file_says_where_it_looked(write: Path) -> None:
    with pytest.raises(Refusal) as caught:
        load.load("lamp", Lamp)
    assert f"There is no params.yaml in {write.parent}" in str(caught.value)
    assert "Run from the root of the repository" in str(caught.value)


def test_load__bytes_that_are_no_text(write: Path) -> None:
    assert "not UTF-8" in refusal(b"lamp: {watts: \xff}\n", write)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lamp:\n  watts: 1\n  watts: 2\n", "line 3, column 3: the key 'watts' stands twice in one block"),
        ("lamp: {watts: 1}\nlamp: {watts: 2}\n", "line 2, column 1: the key 'lamp' stands twice in one block"),
        ("lamp:\n\twatts: 1\n", "line 2, column 1: there is a tab; YAML is indented with spaces only"),
        ("lamp:\n  watts: 1\n\tswitch: off\n", "there is a tab"),
        ("lamp: {watts: 1\nother: 2\n", "params.yaml, line 2"),
        ("lamp: watts: 1\n", "params.yaml, line 1, column 12: mapping values are not allowed"),
        ("lamp: {watts: 1}\n---\nlamp: {watts: 1}\n", "params.yaml, line 2"),
        ("lamp: {watts: \a}\n", "params.yaml is not YAML"),
        ("lamp: !!python/object:os.system {}\n", "could not determine a constructor"),
    ],
)
def test_load__syntax_errors_have_their_line(write: Path, text: str, said: str) -> None:
    found = refusal(text, write)
    assert said in found
    assert "git checkout params.yaml" in found


def test_load_optional__null_where_the_key_is_left_out(write: Path) -> None:
    class Watts(RootModel[float | None]):
        root: float | None

    write.write_text("lamp: {watts: 4.0}\n")
    assert load.load_optional("lamp", "watts", Watts).root == 4.0
    assert load.load_optional("lamp", "volts", Watts).root is None
    assert load.load_optional("desk", "watts", Watts).root is None
    write.write_text("lamp: {watts: bright}\n")
    with pytest.raises(Refusal, match=r"lamp\.watts"):
        load.load_optional("lamp", "watts", Watts)


DEEP = {
    "brackets": "a: " + "[" * 100_000,
    "blocks": "- " * 100_000,
    "closed brackets": "a: " + "[" * 60 + "]" * 60,
    "a billion laughs": "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in itertools.pairwise("abcdefghijkl")),
    "a list that holds itself": "a: &a [1, *a]",
    "a long file": "a: b\n#" + "x" * (1 << 18),
}


@pytest.mark.parametrize("what", DEEP)
def test_parse__what_would_end_the_process_is_refused(what: str) -> None:
    """The first two were a segmentation fault of ruamel's C parser, the fourth a message that was never finished."""
    with pytest.raises(Refusal, match=r"params\.yaml (holds blocks more than|has 2)"):
        load.parse(DEEP[what])


def test_parse__anchors_that_people_use_are_read() -> None:
    text = "base: &base {a: 1, b: [1, 2]}\none:\n  <<: *base\n  c: 3\ntwo: *base\n"
    assert load.parse(text)["one"] == {"a": 1, "b": [1, 2], "c": 3} and load.parse(text)["two"]["b"] == [1, 2]


@pytest.mark.parametrize(
    "text", ["a: !!bool 3", "a: 2001-99-99", "a: !!float x", "a: " + "9" * 5000, "a: 0x" + "f" * 5000]
)
def test_parse__what_cannot_be_made_a_value_is_refused(text: str) -> None:
    with pytest.raises(Refusal, match=r"params\.yaml"):
        load.parse(text)


def test_whole__a_value_that_would_end_the_process_is_shown_short() -> None:
    """Is a text a number without quotes? Asked of ten thousand brackets, the C parser ended the process."""
    with pytest.raises(Refusal, match="watts") as caught:
        load._validate({"watts": "[" * 100_000}, Lamp, ("lamp",))
    assert len(str(caught.value)) < 1000
