"""Which files, params and package versions can change the output of a stage?

    python -m tests.closure            print each stage's files and packages
    python -m tests.closure --fix      rewrite the code, params and versions in dvc.yaml, keeping its comments
    python -m tests.closure --blast    price every file: GPU-hours its edit surely costs, and may cost at worst

The search reads import statements (nothing is executed), skips `if TYPE_CHECKING:`, and refuses code it cannot see
through: a dependency hidden from here is hidden from DVC.
"""

import ast
import functools
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from stages.lib.core.runs import CODE
from stages.lib.params.everything import Everything

ROOT = Path(__file__).parents[1]
YML = YAML()
YML.width = 120
YML.indent(mapping=2, sequence=4, offset=2)
OPAQUE = {"importlib.import_module", "import_module", "__import__", "exec", "eval"}  # bare names: model.eval() is fine
# Params that change how fast a stage runs or where bytes lie, never what it makes. Of a block that holds such a key, a stage
# declares the other keys one by one.
SPEED_ONLY = {"system", "shard.published_uri"}
# Code that only carries bytes a stage compares with a sha256 it knows, or only starts processes: it can fail, and cannot change
# what comes out. So an edit of it is no reason to recompute (tests/data/test_published.py and tests/core/test_objects.py flip
# bytes on their way; what processes compute together is in processes.py, which counts).
# FIRST_READERS meet raw bytes whose sha256 nobody knows yet, so for them it is.
CARRIERS = {
    "stages/lib/core/objects.py",
    "stages/lib/core/s3.py",
    "stages/lib/data/published.py",
    "stages/lib/data/shard_cache.py",
    "stages/lib/training/launcher.py",
}
FIRST_READERS = {"scan", "ingest"}
# Telling others how far a stage is and how it ended: best effort, and no stage reads it back; and what masks
# passwords in those words.
TELLING = {"stages/lib/core/tell.py", "stages/lib/params/credentials.py"}
DISTRIBUTION = {
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "great_expectations": "great-expectations",
    "vl_convert": "vl-convert-python",
}


@functools.cache
def imports(source: Path) -> frozenset[str]:
    """Dotted names `source` may import, e.g. {"torch", "stages.lib.core.runs"}, and paths of C files it runs."""
    names: set[str] = set()
    todo: list[ast.AST] = [ast.parse(source.read_text(), str(source))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            todo.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise SyntaxError(f"{source}:{node.lineno}: relative import; write the full path, it names the floor")
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "native.library":
            names.add(ast.literal_eval(node.args[0]))  # a C file, by its path
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in OPAQUE:
            raise SyntaxError(
                f"{source}:{node.lineno}: {ast.unparse(node.func)}() hides a dependency from DVC; import by name"
            )
        elif isinstance(node, ast.Name) and node.id == "__file__":
            raise SyntaxError(
                f"{source}:{node.lineno}: __file__ reads a sibling DVC cannot see; take the path as an input"
            )
        todo.extend(ast.iter_child_nodes(node))
    return frozenset(names)


def sources_of(name: str, root: Path) -> list[Path]:
    """Repo files that importing the dotted `name` executes: the module, and any __init__ with code above it."""
    parts = name.split(".")
    paths = [root.joinpath(*parts[:depth]) for depth in range(1, len(parts) + 1)]
    files = [f for path in paths for f in (path.with_suffix(".py"), path / "__init__.py")]
    return [f for f in files if f.is_file() and has_code(f)]


def has_code(source: Path) -> bool:
    """False for a file that holds at most a docstring: such an __init__ is a sign on the door, not a dependency."""
    body = ast.parse(source.read_text()).body
    return bool(body) and not (len(body) == 1 and isinstance(body[0], ast.Expr))


def closure(entry: Path, root: Path = ROOT) -> tuple[set[Path], set[str]]:
    """(repo files, third-party import names) reachable from `entry`."""
    files: set[Path] = set()
    packages: set[str] = set()
    carriers = {root / name for name in (TELLING if entry.stem in FIRST_READERS else CARRIERS | TELLING)}
    todo = [entry]
    while todo:
        source = todo.pop()
        if source in files:
            continue
        files.add(source)
        for name in imports(source) if source.suffix == ".py" else ():
            if name.endswith(".c"):
                todo.append(root / name)
                continue
            top = name.split(".")[0]
            if (root / top).is_dir():
                todo += [file for file in sources_of(name, root) if file not in carriers]
            elif top not in sys.stdlib_module_names:
                packages.add(top)
    return files, packages


def entry_of(spec: dict[str, Any], root: Path = ROOT) -> Path:
    """The file a stage's `cmd: python -m stages.<file> ...` runs."""
    words = spec["cmd"].split()
    if words[:2] != ["python", "-m"] or not words[2].startswith("stages."):
        raise ValueError(f"cmd {spec['cmd']!r} is not `python -m stages.<file> ...`")
    return root / "stages" / f"{words[2].removeprefix('stages.')}.py"


def code_of(spec: dict[str, Any], root: Path = ROOT) -> list[str]:
    """Repo-relative files the stage can reach, as dvc.yaml should list them."""
    return sorted(str(f.relative_to(root)) for f in closure(entry_of(spec, root), root)[0])


def loads_of(spec: dict[str, Any], root: Path = ROOT) -> set[str]:
    """Params the stage file asks for: load.load("block", ...) is `block`; load.load_item("block", "key", ...) is `block.key`, and
    so is load.load_optional.

    A key that is no literal is the foreach key of the stage, `block.${key}`.
    """
    names = set()
    for node in ast.walk(ast.parse(entry_of(spec, root).read_text())):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called == "load.load":
            names |= keys_of(ast.literal_eval(node.args[0]))
        elif called in ("load.load_item", "load.load_optional"):
            key = node.args[1]
            item = str(key.value) if isinstance(key, ast.Constant) else "${key}"
            names.add(f"{ast.literal_eval(node.args[0])}.{item}")
    return names - SPEED_ONLY


def keys_of(block: str) -> set[str]:
    """The block; or its keys, where one of them is SPEED_ONLY."""
    if not any(name.startswith(f"{block}.") for name in SPEED_ONLY):
        return {block}
    schema = Everything.model_fields[block].annotation
    assert schema is not None
    return {f"{block}.{key}" for key in schema.model_fields}


def params_of(spec: dict[str, Any], versions: set[str], root: Path = ROOT) -> list[str]:
    """Params and versions.<package> the stage should declare; the whole file for `check`, whose main reads all of it."""
    packages = {DISTRIBUTION.get(name, name.replace("_", "-")) for name in closure(entry_of(spec, root), root)[1]}
    return sorted(loads_of(spec, root)) + sorted(f"versions.{package}" for package in packages & versions)


def whole_file(spec: dict[str, Any]) -> bool:
    """Whether the stage depends on every key of params.yaml."""
    return any(isinstance(param, dict) and "params.yaml" in param for param in spec.get("params", []))


def blast(root: Path = ROOT) -> dict[str, tuple[float, float]]:
    """file -> (GPU-hours DVC surely spends again if it changes, GPU-hours if every rerun also changes its outputs)."""
    from dvc.repo import Repo  # resolves foreach and ${...} as the pipeline does

    with Repo(str(root)) as repo:
        graph = repo.index.graph
        users: dict[str, set[Any]] = {}
        hours = {stage: float((stage.meta or {}).get("gpu_hours", 0)) for stage in graph}
        for stage in graph:
            for dep in stage.deps:
                if str(dep).endswith(CODE):
                    users.setdefault(str(dep), set()).add(stage)

        def below(hit: set[Any]) -> set[Any]:
            grown = hit | {down for stage in hit for down in graph.predecessors(stage)}
            return grown if grown == hit else below(grown)

        return {f: (sum(hours[s] for s in hit), sum(hours[s] for s in below(hit))) for f, hit in users.items()}


def fix() -> None:
    """Rewrite the lists of every stage in dvc.yaml."""
    document = YML.load(ROOT / "dvc.yaml")
    versions = set(YML.load(ROOT / "params.yaml")["versions"])
    for stage in document["stages"].values():
        spec = stage.get("do", stage)
        spec["deps"] = [dep for dep in spec.get("deps", []) if not dep.endswith(CODE)] + code_of(spec)
        if not whole_file(spec):
            wanted = params_of(spec, versions)
            if wanted:
                spec["params"] = wanted
            else:
                spec.pop("params", None)
    YML.dump(document, ROOT / "dvc.yaml")


def main(flag: str = "") -> None:
    """See the module's docstring."""
    if flag == "--fix":
        fix()
    elif flag == "--blast":
        for path, (sure, most) in sorted(blast().items(), key=lambda item: item[1]):
            sys.stdout.write(f"{sure:7.1f} {most:7.1f} h  {path}\n")
    else:
        for name, stage in YML.load(ROOT / "dvc.yaml")["stages"].items():
            spec = stage.get("do", stage)
            packages = closure(entry_of(spec))[1]
            sys.stdout.write(f"{name:18s} {len(code_of(spec)):2d} files, packages: {' '.join(sorted(packages))}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
