"""docs/reliability.md names its witnesses: each of them must exist, or a promise stands there that nothing shows."""

import ast
import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

NAME = re.compile(r"`(\.\.\._\w+|test_\w+(?:\.\.\.|\*)?)`")
FILE = re.compile(r"`((?:tests/[\w/]*)?test_\w+\.py|tests/[\w/]+/)`")
TESTS = {
    node.name
    for path in (ROOT / "tests").rglob("*.py")
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.FunctionDef)
}
FILES = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py")}


def missing(page: str) -> list[str]:
    """Names of tests and test files of a page that are not there; `test_a__...` and `..._b` stand for a beginning and an end."""
    names = [name for name in NAME.findall(page) if not any(_fits(name, test) for test in TESTS)]
    return names + [name for name in FILE.findall(page) if not _there(name)]


def _fits(name: str, test: str) -> bool:
    if name.startswith("..."):
        return test.endswith(name.removeprefix("..."))
    return test == name or (name[-1] in ".*" and test.startswith(name.rstrip(".*")))


def _there(name: str) -> bool:
    return any(file == name or file.endswith(f"/{name}") or file.startswith(name) for file in FILES)


def test_page__names_tests_that_exist() -> None:
    page = (ROOT / "docs/reliability.md").read_text()
    assert len(NAME.findall(page)) >= 20 and len(FILE.findall(page)) > 20
    assert missing(page) == []


@pytest.mark.parametrize(
    "words", ["`test_that__nobody_wrote`", "`test_nobody__...`", "`..._nobody_wrote`", "`tests/core/test_nothing.py`"]
)
def test_control__one_that_does_not_exist_is_found(words: str) -> None:
    assert missing(f"| a promise | {words} | |") == [words.strip("`")]


def test_commands_of_the_page__exist() -> None:
    page = (ROOT / "docs/reliability.md").read_text()
    targets = set(re.findall(r"make ([a-z0-9-]+)", page))
    made = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert targets and targets <= made
    for module in set(re.findall(r"python -m ([\w.]+)", page)):
        place = ROOT / module.replace(".", "/")
        assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), module
    for link in re.findall(r"\]\((\w[\w.]+\.md)", page):
        assert (Path(ROOT) / "docs" / link).is_file(), link
