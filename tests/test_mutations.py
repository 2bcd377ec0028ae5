"""Every parameter and every declared file, changed one at a time: DVC must call exactly the right stages stale.

The stages' outs are stand-ins committed to a DVC repository with the real dvc.yaml, code and params.yaml, so no stage has to run.
Whether dvc.yaml declares what a stage's code can reach is the business of tests/test_deps.py. What is asked here is what DVC makes
of it, against a table written by hand (TABLE: who cares about which parameter) and against dvc.yaml read as plain YAML (files).

The default suite changes a parameter of each block and a few files; `make test-slow` every one.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.workspace import ROOT, environment

SETS = ("digits-0-6", "digits-7-9")
MODELS = ("teacher", "mae", "student", "finetuned")


def every(kind: str, *items: str) -> set[str]:
    """Names of a foreach's stages."""
    return {f"{kind}@{item}" for item in items}


SHARDED = every("ingest", *SETS) | every("shard", *SETS)
STUDENTS = {"distill", "finetune"}
CLASSIFIERS = {"teacher", "distill", "finetune", "transfer@digits-7-9"}
MODEL_GATES = every("validate-model", *MODELS)
TABLE: dict[str, set[str]] = {
    "system": set(),  # speed alone
    "shard.published_uri": set(),  # a place
    "sources": SHARDED,
    "ingest": every("ingest", *SETS),
    "shard": every("shard", *SETS),
    "data": {
        "teacher",
        "pretrain",
        "probe",
        "label",
        "distill",
        "finetune",
    },  # whatever trains on the main set, or asks about its views
    "teacher": {"teacher"},
    "pretrain": {"pretrain"},
    "pretrain.norm_pix": {"pretrain", "probe"},  # what the decoder predicts
    "pretrain.seed": {"pretrain", "probe"},  # validation's masks
    "probe": {"probe"},
    "train": {"distill"},
    "train.distill": STUDENTS,  # finetune.distill may be as-train
    "train.teacher_normalisation": {*STUDENTS, "label"},  # all three ask the teacher
    "train.views": {"distill", "label"},
    "train.labels": {"distill", "label"},
    "train.labelling": {"distill", "label"},  # the fingerprint of the store that distill asks for
    "finetune": {"finetune"},
    "evaluate": {
        *every("evaluate", "teacher", "student", "finetuned"),
        *every("look", "teacher", "student", "finetuned"),  # of the split that was measured
        *every("attend", "student", "finetuned"),
    },
    "transfer": {"transfer@digits-7-9"},
    "export": every("export", "teacher", "student", "finetuned") | {"export-mae"},
    "report": {"report"},
}
"""Stages that read a parameter, by the longest prefix of its key, besides `check`, which reads them all."""
OTHERS = {
    "ingest.exif": "apply",
    "train.distill": "soft",
    "train.labels": "stored",
    "finetune.mode": "train",
    "evaluate.split": "test",
    "sets.main": "digits-7-9",
    "train.init": "scratch",
    "train.teacher": "none",
}
"""Values for words that dvc.yaml makes names of."""
NAMES = (
    "sets.main",
    "sets.transfer",
    "sets.robust",
    "sets.real",
    "train.init",
    "train.teacher",
    "train.labels",
    "transfer.model",
)
"""Parameters that dvc.yaml makes names of: a change renames a dependency, so another file is asked for."""


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository in which every stage is up to date."""
    folder = tmp_path_factory.mktemp("mutations") / "clone"
    files = subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, text=True).splitlines()
    wanted = ("stages/", "data/", "dvc.yaml", "params.yaml", ".dvc")
    for name in files:
        if name.startswith(wanted) and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    shutil.rmtree(folder / ".dvc/cache", ignore_errors=True)
    with Asked(folder) as asked:
        for out in asked.outs():
            if out.suffix:
                out.parent.mkdir(parents=True, exist_ok=True)
                out.write_text(f"what a stage makes: {out.name}\n")
            else:
                out.mkdir(parents=True, exist_ok=True)
                (out / "content").write_text(f"what a stage makes: {out.name}\n")
    command = [sys.executable, "-m", "dvc", "commit", "--force", "--quiet"]
    subprocess.run(command, cwd=folder, check=True, env=environment())
    return folder


class Asked:
    """DVC, in this process."""

    def __init__(self, folder: Path) -> None:
        from dvc.repo import Repo

        self.folder, self.repo = folder, Repo(str(folder))

    def __enter__(self) -> "Asked":
        return self

    def __exit__(self, *_: object) -> None:
        self.repo.close()

    def outs(self) -> list[Path]:
        return [Path(out.fs_path) for stage in self.repo.index.stages for out in stage.outs]

    def stale(self) -> set[str]:
        """What `dvc status` names, but for `scan`, which always is."""
        self.repo._reset()
        found = {name.rpartition(":")[2] for name in self.repo.status()}
        return {name for name in found if not name.startswith("scan@")}


@pytest.fixture
def asked(committed: Path) -> Iterator[Asked]:
    """It, put back afterwards."""
    params = (committed / "params.yaml").read_text()
    with Asked(committed) as one:
        yield one
    (committed / "params.yaml").write_text(params)


def leaves(values: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value of everything that is no block."""
    if not isinstance(values, dict):
        return {prefix: values}
    return {
        key: leaf
        for name, inner in values.items()
        for key, leaf in leaves(inner, f"{prefix}.{name}".strip(".")).items()
    }


def another(key: str, value: Any) -> Any:
    """A value that differs; no matter whether it is allowed: DVC does not know."""
    if key in OTHERS:
        return OTHERS[key]
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, str):
        return f"{value}-other"
    return [*value, 7] if isinstance(value, list) else 7


def change(folder: Path, key: str, value: Any) -> None:
    yaml = YAML()
    values = yaml.load(folder / "params.yaml")
    *blocks, last = key.split(".")
    place = values
    for block in blocks:
        place = place[block]
    place[last] = value
    with (folder / "params.yaml").open("w") as file:
        yaml.dump(values, file)


def readers(key: str) -> set[str]:
    """By TABLE; a set's own block concerns that set alone."""
    words = key.split(".")
    for length in range(len(words), 0, -1):
        if (prefix := ".".join(words[:length])) in TABLE:
            found = TABLE[prefix]
            return {name for name in found if words[1] in name} if prefix == "sources" else found
    raise AssertionError(f"nothing says who reads {key}: add it to TABLE")


UNUSED = ("versions.torchvision", "versions.scikit-learn")
"""What stages use without caring which: timm imports the one, the other brings the embedded digits, whose bytes `scan` records."""
PARAMS = leaves(YAML(typ="safe").load(ROOT / "params.yaml"))
PLAIN = [key for key in PARAMS if key not in NAMES and not key.startswith("versions.")]
FEW = [
    "system.threads",
    "shard.published_uri",
    "shard.images_per_shard",
    "sources.digits-7-9.path",
    "data.subset",
    "teacher.views.seed",
    "pretrain.mask_ratio",
    "train.alpha",
    "train.views.mixup",
    "train.labelling.top_k",
    "finetune.views.image_size",
    "evaluate.batch_size",
    "probe.knn.k",
    "pretrain.norm_pix",
    "transfer.optimizer.lr",
    "export.parity_images",
    "report.title",
]


def test_nothing_changed__nothing_is_stale(asked: Asked) -> None:
    """Negative control: the stand-ins count as made."""
    assert asked.stale() == set()
    assert len(asked.outs()) >= 60


@pytest.mark.parametrize("key", [pytest.param(key, marks=[] if key in FEW else pytest.mark.slow) for key in PLAIN])
def test_parameter__makes_exactly_its_readers_stale(asked: Asked, key: str) -> None:
    change(asked.folder, key, another(key, PARAMS[key]))
    assert asked.stale() == readers(key) | {"check"}


def test_every_parameter__is_in_the_table_and_those_few_exist() -> None:
    assert set(FEW) <= set(PLAIN)
    for key in PLAIN:
        readers(key)
    with pytest.raises(AssertionError, match="nothing says who reads"):
        readers("new_block.key")


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("train.init", {"distill"}),
        ("train.teacher", {"distill", "label", "finetune"}),
        ("train.labels", {"distill", "label"}),
        ("transfer.model", {"transfer@digits-7-9"}),
    ],
)
def test_name__makes_those_stale_that_depend_on_what_it_names(asked: Asked, key: str, expected: set[str]) -> None:
    change(asked.folder, key, {"transfer.model": "finetuned"}.get(key, OTHERS.get(key)))
    assert asked.stale() == expected | {"check"}


@pytest.mark.slow
@pytest.mark.parametrize("package", sorted(key for key in PARAMS if key.startswith("versions.")))
def test_version__makes_those_stale_that_import_the_package(asked: Asked, package: str) -> None:
    change(asked.folder, package, "0.0.1")
    declared = {name for name, spec in expanded().items() if package in spec.get("params", [])}
    assert bool(declared) is (package not in UNUSED)
    assert asked.stale() == {name for name in declared if not name.startswith("scan@")} | {"check"}


def expanded() -> dict[str, dict[str, Any]]:
    """Stage -> what stands in dvc.yaml, foreach written out; read as plain YAML, without DVC."""
    found: dict[str, dict[str, Any]] = {}
    values = YAML(typ="safe").load(ROOT / "params.yaml")
    lists = {"${sources}": list(values["sources"]), "${sets.transfer}": values["sets"]["transfer"]}
    lists |= {"${sets.robust}": values["sets"]["robust"], "${sets.real}": values["sets"]["real"]}
    for name, spec in YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"].items():
        if "foreach" not in spec:
            found[name] = spec
            continue
        items = spec["foreach"] if isinstance(spec["foreach"], list) else lists[spec["foreach"]]
        found |= {f"{name}@{item}": spec["do"] for item in items}
    return found


def declared_files() -> dict[str, set[str]]:
    """File of the repository -> stages that name it among their deps."""
    found: dict[str, set[str]] = {}
    for name, spec in expanded().items():
        for dep in spec["deps"]:
            path = dep.replace("${item}", name.partition("@")[2]).replace("${key}", name.partition("@")[2])
            if "${" not in path and (ROOT / path).is_file() and not path.startswith("data/gates"):
                found.setdefault(path, set()).add(name)
    return found


FILES = declared_files()
FEW_FILES = [
    "stages/report.py",
    "stages/lib/models/mae.py",
    "stages/lib/training/loop.py",
    "stages/lib/reporting/card.py",
    "stages/lib/data/photo.c",
    "data/expectations/shards.json",
]


@pytest.mark.parametrize(
    "path", [pytest.param(path, marks=[] if path in FEW_FILES else pytest.mark.slow) for path in sorted(FILES)]
)
def test_file__makes_exactly_those_stale_that_declare_it(asked: Asked, path: str) -> None:
    file = asked.folder / path
    before = file.read_bytes()
    file.write_bytes(before + b"\n")
    try:
        stale = asked.stale()
    finally:
        file.write_bytes(before)
    assert stale - {"scan"} == {name for name in FILES[path] if not name.startswith("scan@")}


def test_loop__is_no_business_of_reports_and_gates() -> None:
    """Known answers, by hand: what an edit of the training loop and of the page must never touch (design law 1)."""
    assert FILES["stages/lib/training/loop.py"] == {
        "teacher",
        "pretrain",
        "probe",
        *STUDENTS,
        "transfer@digits-7-9",
    }
    assert FILES["stages/lib/models/mae.py"] == {"pretrain", "probe"}
    assert FILES["stages/lib/training/knn.py"] == {"pretrain", "probe"}
    assert FILES["stages/lib/training/lars.py"] == {"probe"}
    assert FILES["stages/lib/models/token_path.py"] == every("attend", "student", "finetuned")
    assert FILES["stages/report.py"] == {"report"}
    assert FILES["data/expectations/shards.json"] == every("validate-shards", *SETS)
    for name in ("stages/flows.py", "flows/pipeline.py", "README.md", "presets/cifar10.yaml"):
        assert name not in FILES


def test_undeclared_file__makes_nothing_stale(asked: Asked) -> None:
    file = asked.folder / "stages/new_file.py"
    file.write_text("x = 1\n")
    assert asked.stale() == set()
    file.unlink()


@pytest.mark.slow
def test_asked__says_what_dvc_status_says(asked: Asked) -> None:
    """Asking in this process is asking `dvc status`."""
    change(asked.folder, "train.alpha", 0.25)
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "status", "--json"], cwd=asked.folder, env=environment(), capture_output=True
    )
    said = {name for name in json.loads(done.stdout) if not name.startswith("scan@")}
    assert said == asked.stale() == {"check", "distill"}
