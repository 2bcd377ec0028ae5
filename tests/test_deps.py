"""dvc.yaml tells the truth: every stage declares exactly the code, params and versions it uses."""

import ast
import importlib.metadata
from pathlib import Path

import pytest

from stages.lib.core.runs import CODE
from tests import closure

STAGES = {name: stage.get("do", stage) for name, stage in closure.YML.load(closure.ROOT / "dvc.yaml")["stages"].items()}
VERSIONS = set(closure.YML.load(closure.ROOT / "params.yaml")["versions"])
FIX = "run `make deps` and read the diff of dvc.yaml"


@pytest.mark.parametrize("name", STAGES)
def test_stage__declares_the_code_it_can_reach(name: str) -> None:
    declared = sorted(dep for dep in STAGES[name]["deps"] if dep.endswith(CODE))
    assert declared == closure.code_of(STAGES[name]), FIX


@pytest.mark.parametrize("name", [name for name in STAGES if not closure.whole_file(STAGES[name])])
def test_stage__declares_the_params_and_versions_it_uses(name: str) -> None:
    assert sorted(STAGES[name].get("params", [])) == sorted(closure.params_of(STAGES[name], VERSIONS)), FIX


COMMANDS = {
    "compare",
    "demo_page",
    "fetch",
    "live",
    "preflight",
    "publish",
    "published",
    "repair",
    "throughput",
}  # run by people or started as programs; nothing they do can change an out


def test_every_stage_file__is_run_by_a_stage() -> None:
    files = set((closure.ROOT / "stages").glob("*.py")) - {closure.ROOT / "stages" / "__init__.py"}
    files -= {closure.ROOT / "stages" / f"{name}.py" for name in COMMANDS}
    assert files == {closure.entry_of(spec) for spec in STAGES.values()}


def test_distribution_names__are_those_pip_knows() -> None:
    known = importlib.metadata.packages_distributions()
    for module, distribution in closure.DISTRIBUTION.items():
        assert distribution in {name.replace("_", "-").lower() for name in known[module]}


FLOOR = {"params": 0, "core": 1, "data": 2, "models": 2, "ingestion": 3, "objectives": 3, "training": 3, "reporting": 3}


@pytest.mark.parametrize("source", sorted((closure.ROOT / "stages").rglob("*.py")), ids=lambda p: p.stem)
def test_imports__go_down(source: Path) -> None:
    """A stage imports lib; lib imports its own shelf or a lower floor; nobody imports a stage."""
    home = source.relative_to(closure.ROOT).parts
    for name in closure.imports(source):
        if not name.startswith("stages."):
            assert not name.endswith(".c") or name.startswith(f"stages/lib/{home[2]}/"), f"{source} runs {name}"
            continue
        assert name.startswith("stages.lib."), f"{source} imports the stage {name}"
        if home[1] == "lib":
            mine, theirs = home[2], name.split(".")[2]
            assert mine == theirs or FLOOR[theirs] < FLOOR[mine], f"{mine} may not import {theirs} ({source})"


@pytest.mark.parametrize(
    "source",
    sorted(set((closure.ROOT / "flows").glob("*.py")) - {closure.ROOT / "flows/__init__.py"}),
    ids=lambda p: p.stem,
)
def test_flows__know_parameters_alone_and_no_torch(source: Path) -> None:
    """Flows start stages and never import them; importing one is quick, as it happens for every run."""
    tops = {"torch", "torchvision", "timm", "great_expectations", "pandas", "matplotlib"}
    nodes = list(ast.walk(ast.parse(source.read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {f"{node.module}." for node in nodes if isinstance(node, ast.ImportFrom)}
    assert names
    for name in names:
        assert not name.startswith("stages.") or name.startswith("stages.lib.params."), f"{source} imports {name}"
        assert name.split(".")[0] not in tops, f"{source} imports {name}"


@pytest.mark.parametrize("source", sorted((closure.ROOT / "stages").rglob("*.py")), ids=lambda p: p.stem)
def test_stages__know_nothing_of_flows(source: Path) -> None:
    assert not {name for name in closure.imports(source) if name.split(".")[0] in ("flows", "prefect")}


def test_closure__sees_a_new_import_and_refuses_what_hides_one(tmp_path: Path) -> None:
    """Negative controls: the search finds what it should, and code it cannot see through is an error."""
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "a.py").write_text("from stages.b import thing\nimport numpy\n")
    (tmp_path / "stages" / "b.py").write_text("thing = 1\n")
    spec = {"cmd": "python -m stages.a x"}
    assert closure.code_of(spec, tmp_path) == ["stages/a.py", "stages/b.py"]
    assert closure.closure(tmp_path / "stages" / "a.py", tmp_path)[1] == {"numpy"}
    (tmp_path / "stages" / "d.c").write_text("int one(void) { return 1; }\n")
    (tmp_path / "stages" / "a.py").write_text('native.library("stages/d.c")\n')
    closure.imports.cache_clear()
    assert closure.code_of(spec, tmp_path) == ["stages/a.py", "stages/d.c"]
    for line in (
        "import importlib\nimportlib.import_module('stages.b')",
        "exec('import stages.b')",
        "from . import b",
        "open(__file__)",
    ):
        hidden = tmp_path / "stages" / f"c{abs(hash(line))}.py"
        hidden.write_text(line + "\n")
        with pytest.raises(SyntaxError):
            closure.imports(hidden)


def test_carriers__exist_and_no_stage_declares_them_or_where_shards_lie() -> None:
    """Law 5: what says where bytes lie and what only carries them re-runs nothing; what says which bytes does."""
    assert all((closure.ROOT / name).is_file() for name in closure.CARRIERS | closure.TELLING)
    for name, spec in STAGES.items():
        assert not closure.TELLING & set(spec["deps"]), name
        assert not closure.CARRIERS & set(spec["deps"]) or name in closure.FIRST_READERS, name
        if not closure.whole_file(spec):
            assert "shard.published_uri" not in spec.get("params", []) and "shard" not in spec.get("params", []), name
    assert {"shard.images_per_shard", "shard.seed", "shard.store"} <= set(STAGES["shard"]["params"])
    streaming = [name for name, spec in STAGES.items() if "load_optional" in closure.entry_of(spec).read_text()]
    assert set(streaming) == {
        "teacher",
        "pretrain",
        "probe",
        "look",
        "attend",
        "label",
        "distill",
        "finetune",
        "transfer",
        "evaluate",
        "robust",
        "export",
        "export-mae",
    }


def test_label__knows_nothing_of_students_and_only_distill_knows_its_store() -> None:
    """The teacher is asked again for another view, index (or part of it) or teacher: not for a loop, an optimizer, alpha, tau or a
    student."""
    assert {param for param in STAGES["label"]["params"] if not param.startswith("versions.")} == {
        "data",
        *(f"train.{key}" for key in ("views", "labels", "labelling", "teacher", "teacher_normalisation")),
    }
    files = {Path(dep).stem for dep in STAGES["label"]["deps"] if dep.endswith(CODE)}
    students = {
        "classifier",
        "loop",
        "optimizer",
        "schedule",
        "ema",
        "checkpoint",
        "plan",
        "deit",
        "positions",
        "vit",
        "distill",
    }
    assert not files & (students | {"train", "training", "distillation", "everything"})
    store = {"answers", "label_store", "fingerprint"}
    knowing = {name for name, spec in STAGES.items() if store & {Path(dep).stem for dep in spec["deps"]}}
    assert knowing == {"label", "distill"}
    depending = {name for name, spec in STAGES.items() if any(dep.startswith("data/labels/") for dep in spec["deps"])}
    assert depending == {"distill"}


def test_store__is_known_to_shard_alone() -> None:
    """Another `shard.store` ingests nothing again: what follows from shards is stale through the index, nothing else is."""
    knowing = [name for name, spec in STAGES.items() if "shard.store" in spec.get("params", [])]
    assert knowing == ["shard"]
    files = {"cost", "fidelity", "reencode", "spool", "shard_copy", "shard_writer"}
    using = {name for name, spec in STAGES.items() if files & {Path(dep).stem for dep in spec["deps"]}}
    assert using == {"shard"}
