"""Says in plain words what a block of params.yaml gets wrong: path, value seen, what is allowed, nearest known name.

The words come from the schema itself (as JSON schema), so a new key needs no new message.
"""

import datetime
import difflib
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stages.lib.params.credentials import masked

Node = dict[str, Any]  # a piece of a JSON schema
Path = tuple[str | int, ...]
BOUNDS = {
    "minimum": "of at least",
    "exclusiveMinimum": "above",
    "maximum": "of at most",
    "exclusiveMaximum": "below",
    "multipleOf": "that is a multiple of",
}
LONGEST_NUMBER = 40
KINDS = {"integer": "a whole number", "number": "a number", "boolean": "true or false"}


def problems(error: ValidationError, schema: type[BaseModel], path: Path) -> list[str]:
    """One sentence or two for each thing wrong; `path` leads from the file to the block.

    Unknown keys come first: what is then said to be missing is often the same key, well spelt.
    """
    root = schema.model_json_schema()
    found = sorted(error.errors(include_url=False), key=lambda one: one["type"] != "extra_forbidden")
    return list(dict.fromkeys(_problem(one, root, path) for one in found))


def nearest(name: str, known: Sequence[str]) -> str:
    """`Did you mean 'distill'? ` for a mistyped name, or nothing."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"Did you mean {near[0]!r}? " if near else ""


def _problem(found: Any, root: Node, path: Path) -> str:
    kind, loc, value = found["type"], found["loc"], found["input"]
    if loc and loc[-1] == "[key]":
        return f"{_dotted(path + loc[:-1])}: a name here matches {found.get('ctx', {}).get('pattern', 'text')}."
    if kind == "missing" and isinstance(loc[-1], int):  # pydantic calls the absent entry of a short list missing
        loc, kind = loc[:-1], "too_short"
    name = _dotted(path + loc)
    if kind == "value_error":
        text = found["msg"].removeprefix("Value error, ")
        return f"{name}: {text}." if name else f"{text}."
    if kind in ("extra_forbidden", "invalid_key"):
        known = list(_node(root, loc[:-1]).get("properties", {}))
        what = "key" if "." in name else "block"
        return f"{name} is an unknown {what}. {nearest(str(loc[-1]), known)}Known here: {', '.join(known)}."
    allowed = _described(root, _node(root, loc))
    if kind == "missing":
        return f"{name} is missing; it must be {allowed}."
    return f"{name} is {_shown(value)}; allowed: {allowed}.{_hint(value, _node(root, loc))}"


def _dotted(path: Path) -> str:
    return ".".join(str(step) for step in path)


def _node(root: Node, loc: Path) -> Node:
    """The piece of the schema a location leads to; empty where the schema knows none."""
    node = root
    for step in loc:
        if isinstance(step, int):
            places = node.get("prefixItems", [])
            node = places[step] if step < len(places) else node.get("items", {})
        else:
            entries = [*node.get("patternProperties", {}).values(), node.get("additionalProperties")]
            node = node.get("properties", {}).get(step) or next((entry for entry in entries if entry), {})
        node = _resolved(root, node)
    return node


def _resolved(root: Node, node: Node) -> Node:
    """Follow a reference; of `something or null`, take the something and remember that null is allowed too."""
    if "anyOf" in node:
        some = next(branch for branch in node["anyOf"] if branch.get("type") != "null")
        return {**_resolved(root, some), "nullable": True}
    if "$ref" in node:
        found: Node = root["$defs"][node["$ref"].rsplit("/", 1)[1]]
        return found
    return node


def _described(root: Node, node: Node) -> str:
    """What a value here may be, such as `a number above 0 and below 1`."""
    node = _resolved(root, node)
    return ("null, or " if node.get("nullable") else "") + _plain(root, node)


def _plain(root: Node, node: Node) -> str:
    kind = str(node.get("type"))
    if "enum" in node or "const" in node:
        *others, last = [str(value) for value in node.get("enum", [node.get("const")])]
        return f"{', '.join(others)} or {last}" if others else last
    if kind == "object":
        return f"a block with the keys {', '.join(node['properties'])}" if "properties" in node else "a mapping"
    if kind == "array":
        each = _described(root, [*node.get("prefixItems", []), node.get("items", {})][0])
        return f"a list of {node['minItems']}, each {each}" if "minItems" in node else f"a list, each {each}"
    if kind == "string" and "pattern" in node:
        return str(node.get("description", f"text matching {node['pattern']}"))
    if kind == "string":
        return "text, not empty" if node.get("minLength") else "text"
    bounds = [f"{words} {node[bound]:.15g}" for bound, words in BOUNDS.items() if bound in node]
    return " ".join([KINDS.get(kind, "another value"), " and ".join(bounds)]).strip()


def _shown(value: Any) -> str:
    """A value as YAML has it: `empty (null)`, true, 1.5, or text in quotes."""
    if value is None:
        return "empty (null)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return f"a block with the keys {', '.join(str(key) for key in value)}" if value else "an empty block"
    text = masked(repr(value) if isinstance(value, str | int | float | list) else str(value))
    return text if len(text) <= 60 else f"{text[:57]}..."


def _hint(value: Any, node: Node) -> str:
    """How a value that nearly fits is written."""
    kind, choices = node.get("type"), node.get("enum")
    if isinstance(value, bool) and kind != "boolean":
        return " (`dvc exp run -S` writes false for off and no, true for on and yes.)"
    if choices and isinstance(value, str):
        return f" {nearest(value, choices)}".rstrip()
    if isinstance(value, str) and kind in ("integer", "number") and _is_number(value):
        return f" {value!r} is text; write {value.strip()} without quotes."
    if isinstance(value, float) and kind == "integer" and value.is_integer():
        return f" Write {int(value)}."
    if not choices and kind == "string" and isinstance(value, int | float | datetime.date):
        return " Write it in quotes."
    if kind == "array" and isinstance(value, str | int | float):
        return f" Write [{value}]."
    return ""


def _is_number(text: str) -> bool:
    if len(text) > LONGEST_NUMBER:  # ten thousand brackets would end the process
        return False
    try:
        return isinstance(YAML(typ="safe").load(text), int | float)
    except YAMLError:
        return False
