"""prefect.yaml and what else a server is told: names that others rely on, and nothing of one host in it."""

import os
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from flows import deploy, settings

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    found: dict[str, Any] = YAML(typ="safe").load(ROOT / "prefect.yaml")
    return found


def test_the_deployments_have_the_names_that_flows_and_docs_use(told: dict[str, Any]) -> None:
    found = {f"{d['entrypoint'].rpartition(':')[2]}/{d['name']}": d["work_pool"]["name"] for d in told["deployments"]}
    assert found == {
        "pipeline/nightly": "tutelage",
        "experiment/form": "tutelage",
        "refresh/raw-data": "tutelage",
        "stage/cpu": "tutelage-cpu",
        "stage/gpu": "tutelage-gpu",
    }
    assert set(found.values()) == set(deploy.POOLS) == set(settings.POOLS)


def test_nothing_in_it_belongs_to_one_host(told: dict[str, Any]) -> None:
    assert told["pull"] == [{"prefect.deployments.steps.set_working_directory": {"directory": "{{ $TUTELAGE_CLONE }}"}}]
    assert not re.search(r"(?m)[ \"'](/|~)[a-z]", (ROOT / "prefect.yaml").read_text())
    assert told["prefect-version"] in (ROOT / "requirements.lock").read_text()


def test_the_clone_of_who_deploys_is_not_passed_on_and_the_time_zone_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    script = tmp_path / "python"
    script.write_text('#!/bin/sh\nenv > "$SEEN"; echo "$@" >> "$SEEN"; echo words of Prefect; exit "$CODE"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(deploy.sys, "executable", str(script))
    seen = tmp_path / "seen"
    environment = {**os.environ, "SEEN": str(seen), "CODE": "0", "TUTELAGE_CLONE": "/one/host"}
    deploy.deployments(tmp_path, environment)
    lines = seen.read_text().splitlines()
    assert lines[-1] == "-m prefect --no-prompt deploy --all"
    assert "TUTELAGE_TIMEZONE=UTC" in lines and not [line for line in lines if line.startswith("TUTELAGE_CLONE")]
    deploy.deployments(tmp_path, {**environment, "TUTELAGE_TIMEZONE": "Europe/Berlin"})
    assert "TUTELAGE_TIMEZONE=Europe/Berlin" in seen.read_text()
    with pytest.raises(subprocess.CalledProcessError):
        deploy.deployments(tmp_path, {**environment, "CODE": "1"})
    assert "words of Prefect" in caplog.text


def test_the_watch_is_what_the_server_accepts() -> None:
    """Prefect's own model of an automation takes it, and an outage of two minutes is shorter than its patience."""
    from prefect.server.events.schemas.automations import AutomationCreate

    wanted = deploy.watch()
    made = AutomationCreate.model_validate(wanted.model_dump(mode="json"))
    assert made.trigger.within.total_seconds() == settings.SILENCE_SECONDS  # type: ignore[union-attr]
    assert settings.SILENCE_SECONDS >= 120 + 2 * int(settings.CLIENT["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
    assert deploy._said(wanted) == deploy._said(deploy.watch())
    assert deploy._said(wanted) != deploy._said(deploy.watch(60))


def test_the_states_in_which_no_heartbeat_comes_are_all_named() -> None:
    from prefect.client.schemas.objects import TERMINAL_STATES

    assert {state.name.capitalize() for state in TERMINAL_STATES} <= set(deploy.OVER)
    assert {"Ran", "Cached", "UpToDate", "Refused"} <= set(
        deploy.OVER
    )  # a run that ended in one of ours is no dead run
