"""Nothing in this repository runs what a file or a value says: the calls that could are named here, and looked for in every file.

The search reads the code; nothing is executed. Its controls are planted snippets, each of which it must find.
"""

import ast
import re
from collections.abc import Iterator

import pytest

from tests import closure

PICKLES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "jsonpickle"}
UNPICKLING = {f"{module}.{name}" for module in PICKLES for name in ("load", "loads", "Unpickler", "open", "decode")}
RUNNING = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput",
           "pty.spawn", "asyncio.create_subprocess_shell", "code.interact", "runpy.run_path"}  # fmt: skip
READING = {"pandas.read_pickle", "torch.jit.load", "torch.hub.load", "torch.package.PackageImporter", "yaml.load", "yaml.load_all",
           "yaml.unsafe_load", "yaml.full_load", "yaml.Loader", "yaml.UnsafeLoader", "numpy.lib.format.read_array",
           "xml.etree.ElementTree.parse", "xml.sax.parse"}  # fmt: skip
UNPACKING = {"shutil.unpack_archive", "tempfile.mktemp"}
TRUSTING = {"ssl._create_unverified_context", "torch.serialization.add_safe_globals", "ssl.CERT_NONE"}
EXTRACTING = {"extract", "extractall", "_extract_member"}
WORDS = re.compile(r"\b(?:sh|bash|zsh|dash)\b")

ALLOWED = {
    ("tests/ingestion/test_plain_pickle.py", "pickle.loads"): "controls: what is refused there would have run here",
    ("tests/test_pickle_bombs.py", "pickle.loads"): "controls: the bombs are live",
    ("tests/models/test_tensors.py", "torch.load without weights_only=True"): "control: the bomb is live",
    ("tests/golden_runs.py", "extractall"): "git's archive of this very repository, with filter='data'",
    ("tests/ingestion/test_cifar_layout.py", "extractall"): "the distribution's own test data, with filter='data'",
    ("tests/ingestion/test_flowers_layout.py", "extractall"): "the distribution's own test data, with filter='data'",
    ("tests/ingestion/test_cars_layout.py", "extractall"): "the distribution's own test data, with filter='data'",
    ("tests/ingestion/test_shard_copy.py", "pickle.loads"): "what a pool of processes does with our own objects",
    ("tests/e2e/postgres.py", "a subprocess whose arguments are hidden"): "the account that PostgreSQL runs as",
    ("tests/e2e/test_drills.py", "a subprocess whose arguments are hidden"): "arguments that all its processes share",
    ("tests/flows/test_leash.py", "a subprocess with a shell"): "constant words: a shell is what is being tested",
}
"""Where a call may stand, and why."""


def dangers(source: str) -> Iterator[tuple[int, str]]:
    """(line, what stands there) of every call or name that could run what a file or a value says."""
    tree = ast.parse(source)
    names = dict(_imported(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = _dotted(node.func, names)
            for what in _wrong(node, called):
                yield node.lineno, what
        elif isinstance(node, ast.Name | ast.Attribute) and _dotted(node, names) in TRUSTING:
            yield node.lineno, _dotted(node, names)


def _wrong(node: ast.Call, called: str) -> Iterator[str]:
    given = {one.arg: one.value for one in node.keywords}
    if called in UNPICKLING | RUNNING | READING | UNPACKING:
        yield called
    if isinstance(node.func, ast.Attribute) and node.func.attr in EXTRACTING:
        yield node.func.attr
    if called in ("torch.load", "torch.serialization.load") and not _is(given.get("weights_only"), True):
        yield "torch.load without weights_only=True"
    if called.startswith("numpy.") and "allow_pickle" in given and not _is(given["allow_pickle"], False):
        yield "numpy with allow_pickle"
    if "shell" in given and not _is(given["shell"], False):
        yield "a subprocess with a shell"
    if called.endswith("YAML") and isinstance(kind := given.get("typ"), ast.Constant) and kind.value == "unsafe":
        yield "unsafe YAML"
    if "verify" in given and _is(given["verify"], False):
        yield "a connection whose certificate is not looked at"
    if called.startswith(("subprocess.", "os.exec", "os.spawn")):
        first = next((one for one in node.args if isinstance(one, ast.List)), None)
        words = [one.value for one in first.elts[:2] if isinstance(one, ast.Constant)] if first else []
        if words[1:] == ["-c"] and WORDS.search(str(words[0])):
            yield "a subprocess with a shell"
    if None in given and called.startswith("subprocess."):  # what ** brings cannot be seen from here
        yield "a subprocess whose arguments are hidden"


def _imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Name in this file -> dotted name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for one in node.names:
                yield (one.asname, one.name) if one.asname else (one.name.partition(".")[0], one.name.partition(".")[0])
        elif isinstance(node, ast.ImportFrom) and node.module:
            for one in node.names:
                yield one.asname or one.name, f"{node.module}.{one.name}"


def _dotted(node: ast.AST, names: dict[str, str]) -> str:
    """`p.loads` after `import pickle as p` -> pickle.loads; empty for what is no plain name."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    root = node
    while isinstance(root, ast.Attribute):
        root = root.value
    if (
        isinstance(node, ast.Attribute) and isinstance(root, ast.Name) and root.id in names
    ):  # `yaml = YAML()` is no module
        return f"{_dotted(node.value, names)}.{node.attr}"
    return ""


def _is(node: ast.expr | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


SOURCES = sorted(
    path for floor in ("stages", "flows", "benchmarks", "tests") for path in (closure.ROOT / floor).rglob("*.py")
)


def test_no_file__runs_what_a_file_or_a_value_says() -> None:
    found = {
        (path.relative_to(closure.ROOT).as_posix(), what): f"{path}:{line}: {what}"
        for path in SOURCES
        for line, what in dangers(path.read_text(encoding="utf-8"))
    }
    assert not [words for key, words in found.items() if key not in ALLOWED]
    assert not set(ALLOWED) - set(found), "an exception that nothing needs any more"
    assert not [place for place, _ in ALLOWED if not place.startswith("tests/")], "the product has no exceptions"


@pytest.mark.parametrize(
    "snippet",
    [
        "import pickle\npickle.load(f)",
        "import pickle as p\np.loads(b'')",
        "from pickle import loads as read\nread(b'')",
        "import pickle\npickle.Unpickler(f).load()",
        "def f():\n    from dill import load\n    return load(x)",
        "import torch\ntorch.load(path)",
        "import torch\ntorch.load(path, weights_only=False)",
        "import torch\ntorch.load(path, weights_only=trusted)",
        "from torch import load\nload(path)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import numpy as np\nnp.load(path, allow_pickle=flag)",
        "import pandas as pd\npd.read_pickle(path)",
        "import yaml\nyaml.load(text)",
        "import yaml\nyaml.load(text, Loader=yaml.Loader)",
        "from ruamel.yaml import YAML\nYAML(typ='unsafe')",
        "eval('1')",
        "exec(text)",
        "__import__(name)",
        "import os\nos.system(f'rm {name}')",
        "from os import popen\npopen(name)",
        "import subprocess\nsubprocess.run(f'ls {name}', shell=True)",
        "import subprocess\nsubprocess.Popen(words, shell=wanted)",
        "import subprocess\nsubprocess.run(['bash', '-c', text])",
        "import subprocess\nsubprocess.run(words, **options)",
        "import asyncio\nasyncio.create_subprocess_shell(text)",
        "import tarfile\ntarfile.open(p).extractall(folder)",
        "tar.extract(member)",
        "import zipfile\nwith zipfile.ZipFile(p) as z:\n    z.extractall()",
        "import shutil\nshutil.unpack_archive(p)",
        "import tempfile\ntempfile.mktemp()",
        "import ssl\ncontext = ssl._create_unverified_context()",
        "httpx.get(url, verify=False)",
    ],
)
def test_dangers__a_planted_one_is_found(snippet: str) -> None:
    assert list(dangers(snippet))


@pytest.mark.parametrize(
    "snippet",
    [
        "model.eval()",
        "import torch\ntorch.load(path, weights_only=True)",
        "import numpy as np\nnp.load(path)",
        "from ruamel.yaml import YAML\nYAML(typ='safe').load(text)",
        "import subprocess\nsubprocess.run(['git', 'status', name], shell=False)",
        "import re\nre.compile('x')",
        "import json\njson.loads(text)",
    ],
)
def test_dangers__plain_code_is_left_alone(snippet: str) -> None:
    assert not list(dangers(snippet))


TEMPLATED = re.compile(r"\$\{([^}]*)\}")


def test_dvc__gives_its_shell_no_name_that_check_has_not_seen() -> None:
    """DVC runs `cmd` in a shell: what is put into one is a set's name, whose letters the schema limits, or a word of dvc.yaml."""
    stages = closure.YML.load(closure.ROOT / "dvc.yaml")["stages"]
    for name, stage in stages.items():
        command = stage.get("do", stage)["cmd"]
        assert isinstance(command, str) and not re.search(r"[;&|<>`\n\"'\\]|\$\(", TEMPLATED.sub("", command)), name
        for inserted in TEMPLATED.findall(command):
            over = stage.get("foreach")
            lists = [("key", "${sources}"), *(("item", f"${{sets.{part}}}") for part in ("transfer", "robust", "real"))]
            known = inserted == "sets.main" or (inserted, over) in lists
            assert known or (inserted == "item" and all(re.fullmatch("[a-z]+", word) for word in over)), (
                name,
                inserted,
            )


HOSTILE = ["x; rm -rf y", "x y", "-x", "../x", "x/y", "$(id)", "`id`", "x\ny", "x\n", "x&", "x|y", "x>y", "", "X", "é", "x'", 'x"',
           "x\0", "a" * 41]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE, ids=[ascii(name)[:12] for name in HOSTILE])
def test_set_names__that_a_shell_or_a_path_would_read_are_refused(name: str) -> None:
    from pydantic import TypeAdapter, ValidationError

    from stages.lib.params.sets import Sets
    from stages.lib.params.sources import SetName, Sources

    assert TypeAdapter(SetName).validate_python("digits-0-6") == "digits-0-6"  # the control
    for made in (
        lambda: Sources.model_validate({name: {"layout": "folder", "path": "x"}}),
        lambda: Sets.model_validate({"main": name, "transfer": []}),
        lambda: Sets.model_validate({"main": "x", "transfer": [name]}),
    ):
        with pytest.raises(ValidationError):
            made()
