"""Reads params.yaml as DVC does (YAML 1.2) and turns a block into its schema, or refuses with every problem named."""

import re
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, ScalarEvent

from stages.lib.core import explain
from stages.lib.core.outcome import Refusal
from stages.lib.params.credentials import masked

Schema = TypeVar("Schema", bound=BaseModel)
PARAMS = Path("params.yaml")
RESTORE = (
    "`dvc exp run -S` leaves the bad value in params.yaml: `git diff params.yaml` shows what changed, "
    "`git checkout params.yaml` restores it."
)
MOST_CHARACTERS, MOST_DEEP, MOST_VALUES, LONGEST_WORD = 1 << 18, 50, 20_000, 1000
"""Of a file that a person wrote: the largest preset has 8,000 characters, 5 levels, 300 values."""
TWICE = re.compile(r'found duplicate key "(.*)" with value', re.DOTALL)


def load(block: str, schema: type[Schema]) -> Schema:
    """One block of ./params.yaml. Raises Refusal."""
    return _validate(_entry(_read(PARAMS), block, ()), schema, (block,))


def load_item(block: str, key: str, schema: type[Schema]) -> Schema:
    """One entry of a mapping block of ./params.yaml, such as one of `sources`. Raises Refusal."""
    return _validate(_entry(_entry(_read(PARAMS), block, ()), key, (block,)), schema, (block, key))


def load_optional(block: str, key: str, schema: type[Schema]) -> Schema:
    """The same for a key that may be left out, also with its block; it is null then. Raises Refusal."""
    values = _read(PARAMS).get(block)
    return _validate(values.get(key) if isinstance(values, dict) else None, schema, (block, key))


def whole(schema: type[Schema], path: Path = PARAMS) -> Schema:
    """The whole file, every block and block against block. Raises Refusal."""
    return _validate(_read(path), schema, ())


def parse(text: str) -> Any:
    """YAML 1.2 text as DVC reads it: 1e-4 is a number, off a string, a key given twice an error. Raises Refusal."""
    try:
        _look_through(text)
        return YAML(typ="safe").load(text)
    except Refusal:
        raise
    except YAMLError as error:
        raise Refusal(f"{_syntax(error, text)}\n{RESTORE}") from None
    except (
        Exception
    ) as error:  # `!!bool 3`, a date of month 99, a thousand brackets: Python's own errors come out of it
        raise Refusal(
            f"params.yaml holds something that cannot be made a value ({type(error).__name__}: {str(error)[:200]}).\n{RESTORE}"
        ) from None


def _look_through(text: str) -> None:
    """Raises Refusal for what would end the process or never end: the C parser makes values of values by calling itself, and a
    few lines of `&a` and `*a` stand for millions of values. Reading event by event does neither.
    """
    if len(text) > MOST_CHARACTERS:
        raise Refusal(
            f"params.yaml has {len(text):,} characters; more than {MOST_CHARACTERS:,} are not read.\n{RESTORE}"
        )
    sizes: dict[str, int] = {}  # anchor -> values it stands for
    open_blocks: list[tuple[str | None, int]] = [(None, 0)]
    for event in YAML(typ="safe").parse(text):
        anchor, size = getattr(event, "anchor", None), 0
        if isinstance(event, CollectionStartEvent):
            open_blocks.append((anchor, 1))
        elif isinstance(event, CollectionEndEvent):
            anchor, size = open_blocks.pop()
        elif isinstance(event, AliasEvent):
            size = sizes.get(anchor or "", MOST_VALUES + 1)  # of what is not complete yet: it holds itself
            anchor = None
        elif isinstance(event, ScalarEvent):
            size = 1
            plain = event.tag or not event.style  # it may be a number, and Python writes none of 5,000 digits
            if plain and len(event.value) > LONGEST_WORD:
                raise Refusal(f"params.yaml holds a word of {len(event.value):,} letters or digits.\n{RESTORE}")
        if anchor and size:
            sizes[anchor] = size
        open_blocks[-1] = (open_blocks[-1][0], open_blocks[-1][1] + size)
        if len(open_blocks) > MOST_DEEP or open_blocks[-1][1] > MOST_VALUES:
            raise Refusal(
                f"params.yaml holds blocks more than {MOST_DEEP} deep in each other, or more than {MOST_VALUES:,} values."
                f"\n{RESTORE}"
            )


def _read(path: Path) -> dict[str, Any]:
    """The blocks of a file."""
    if not path.is_file():
        raise Refusal(
            f"There is no {path} in {Path.cwd()}. Run from the root of the repository; if it is gone, "
            f"`git checkout {path}` restores it."
        )
    try:
        values = parse(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise Refusal(f"{path} is not UTF-8 text ({error}).\n{RESTORE}") from None
    if not isinstance(values, dict):
        raise Refusal(f"{path} {'is empty' if values is None else 'holds no blocks such as `train:`'}.\n{RESTORE}")
    return values


def _syntax(error: YAMLError, text: str) -> str:
    """A YAML error in plain words, with its line."""
    if not isinstance(error, MarkedYAMLError) or error.problem_mark is None:
        return f"params.yaml is not YAML: {error}"
    mark = error.problem_mark
    line = masked([*text.split("\n"), ""][mark.line])
    problem = ": ".join(str(part) for part in (error.context, error.problem) if part)
    if twice := TWICE.search(problem):
        problem = f"the key {twice[1]!r} stands twice in one block; keep one of the two"
    elif "\t" in line[: mark.column + 1]:
        problem = "there is a tab; YAML is indented with spaces only"
    shown = f"\n  {line.strip()}" if line.strip() else ""
    return f"params.yaml, line {mark.line + 1}, column {mark.column + 1}: {problem}.{shown}"


def _entry(values: Any, key: str, path: tuple[str, ...]) -> Any:
    """values[key]; a block or entry that is not there is named, with those that are."""
    if isinstance(values, dict) and key in values:
        return values[key]
    known = [str(name) for name in values] if isinstance(values, dict) else []
    what = f"{'.'.join(path)} has no entry {key!r}" if path else f"params.yaml has no block `{key}:`"
    raise Refusal(f"{what}. {explain.nearest(key, known)}It has: {', '.join(known) or 'nothing'}.\n{RESTORE}")


def _validate(values: Any, schema: type[Schema], path: tuple[str, ...]) -> Schema:
    """The values as their schema; else a Refusal with one line for each problem."""
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        lines = explain.problems(error, schema, path)
    count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
    raise Refusal("\n".join([f"params.yaml has {count}:", *(f"  {line}" for line in lines), RESTORE]))
