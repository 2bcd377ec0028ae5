"""The flows' graph is DVC's own, on this repository's dvc.yaml."""

from pathlib import Path

import pytest

from flows import graph
from flows.graph import Stage

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def stages() -> dict[str, Stage]:
    return {stage.name: stage for stage in graph.read(ROOT)}


def test_stages__are_dvcs_with_upstream_first(stages: dict[str, Stage]) -> None:
    names = list(stages)
    assert names[0] == "check" and "distill" in names and "transfer@digits-7-9" in names
    for stage in stages.values():
        assert all(names.index(up) < names.index(stage.name) for up in stage.upstream)
    assert stages["scan@digits-0-6"].upstream == ("check",)
    assert stages["ingest@digits-0-6"].upstream == ("scan@digits-0-6",)


def test_teacher_and_pretraining__do_not_wait_for_each_other(stages: dict[str, Stage]) -> None:
    assert "pretrain" not in _all_before(stages, "teacher") and "teacher" not in _all_before(stages, "pretrain")
    assert {"pretrain", "teacher"} <= _all_before(stages, "distill")


def _all_before(stages: dict[str, Stage], name: str) -> set[str]:
    before = set(stages[name].upstream)
    return before.union(*(_all_before(stages, up) for up in before))


def test_meta__says_who_needs_a_gpu_and_what_is_read_beyond_the_dependencies(stages: dict[str, Stage]) -> None:
    gpus = {stage.kind: stage.gpus for stage in stages.values()}
    assert gpus["teacher"] == gpus["pretrain"] == gpus["transfer"] == 1
    assert gpus["check"] == gpus["ingest"] == gpus["validate-model"] == gpus["report"] == 0
    assert "data/shards/digits-0-6" in stages["distill"].inputs  # its dependency is the index alone
    assert "data/shards/digits-0-6" not in stages["validate-model@student"].inputs
    assert set(stages["validate-model@student"].inputs) == {"data/models/student", "data/history/student.csv"}


def test_folder_dependencies__become_the_outs_in_them(stages: dict[str, Stage]) -> None:
    assert "data/metrics/student.json" in stages["report"].inputs  # it depends on data/metrics
    assert "data/models/student" not in stages["report"].inputs


def test_only_scan__always_runs(stages: dict[str, Stage]) -> None:
    assert {stage.kind for stage in stages.values() if stage.always} == {"scan"}


def test_targets__take_what_they_need_and_nothing_else(stages: dict[str, Stage]) -> None:
    every = list(stages.values())
    assert [stage.name for stage in graph.needed(every, ["ingest@digits-7-9"])] == [
        "check",
        "scan@digits-7-9",
        "ingest@digits-7-9",
    ]
    kinds = {stage.name for stage in graph.needed(every, ["validate-manifest"])}
    assert {"validate-manifest@digits-0-6", "validate-manifest@digits-7-9"} <= kinds and "teacher" not in kinds
    assert graph.needed(every, []) == every


def test_unknown_target__is_refused_with_what_there_is(stages: dict[str, Stage]) -> None:
    with pytest.raises(graph.UnknownTarget, match=r"no stage 'distil'.*distill.*kind"):
        graph.needed(list(stages.values()), ["distil"])
