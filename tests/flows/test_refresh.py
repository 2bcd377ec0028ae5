"""New raw data leads to ingest and the data gates, and nothing else."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from flows import graph, refresh

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("source", ["digits-7-9", "tutelage.raw-data.digits-7-9"])
def test_source__is_a_set_or_the_resource_of_its_event(source: str) -> None:
    stages = [stage.name for stage in graph.read(ROOT, refresh.gates_of(source))]
    kinds = ("check", "scan", "ingest", "validate-manifest", "shard", "validate-shards")
    assert stages == [kind if kind == "check" else f"{kind}@digits-7-9" for kind in kinds]


def test_no_source__every_set_and_no_training() -> None:
    kinds = {stage.kind for stage in graph.read(ROOT, refresh.gates_of(""))}
    assert kinds == {"check", "scan", "ingest", "validate-manifest", "shard", "validate-shards"}


def test_unknown_set__is_refused() -> None:
    with pytest.raises(graph.UnknownTarget, match="validate-manifest@nowhere"):
        graph.read(ROOT, refresh.gates_of("nowhere"))


def test_deployment__passes_the_events_resource() -> None:
    deployments = {one["name"]: one for one in YAML(typ="safe").load(ROOT / "prefect.yaml")["deployments"]}
    (trigger,) = deployments["raw-data"]["triggers"]
    assert trigger["parameters"] == {"source": "{{ event.resource.id }}"}
