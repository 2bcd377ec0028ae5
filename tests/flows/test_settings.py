"""The environment of Prefect's programs: ours where it matters, the caller's where they know better."""

from pathlib import Path

import pytest

from flows import settings


def test_a_caller_may_say_otherwise_except_where_the_server_and_its_files_are() -> None:
    environment = {
        "PATH": "/bin",
        "PREFECT_WORKER_QUERY_SECONDS": "5",
        "PREFECT_HOME": "/elsewhere",
        "PREFECT_API_URL": "http://elsewhere/api",
        "PREFECT_PROFILE": "theirs",
    }
    found = settings.client("http://host:4200/api", Path("/home"), environment)
    assert found["PATH"] == "/bin" and found["PREFECT_WORKER_QUERY_SECONDS"] == "5"
    assert found["PREFECT_HOME"] == "/home" and found["PREFECT_API_URL"] == "http://host:4200/api"
    assert "PREFECT_PROFILE" not in found  # it lies in their home
    assert found["DO_NOT_TRACK"] == "1"


def test_a_server_keeps_leases_on_disk_and_listens_on_loopback() -> None:
    found = settings.server(4201, Path("/home"), {})
    assert found["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"].endswith("filesystem")
    assert found["PREFECT_SERVER_API_HOST"] == "127.0.0.1"
    assert found["PREFECT_API_URL"] == found["PREFECT_UI_API_URL"] == "http://127.0.0.1:4201/api"


def test_prefect_knows_every_setting_by_the_name_we_use() -> None:
    from prefect.settings.models.root import Settings

    known = _names(Settings)
    ours = {name for name in {**settings.CLIENT, **settings.SERVER} if name.startswith("PREFECT_")}
    assert ours <= known, ours - known
    assert "PREFECT_WORKER_QUERY_SECOND" not in known


def _names(model: type) -> set[str]:
    """Environment variables of a settings model and those below it, aliases too."""
    from pydantic import AliasChoices
    from pydantic_settings import BaseSettings

    found: set[str] = set()
    for name, field in model.model_fields.items():  # type: ignore[attr-defined]
        found.add(f"{model.model_config['env_prefix']}{name}".upper())  # type: ignore[attr-defined]
        if isinstance(field.validation_alias, AliasChoices):
            found.update(choice.upper() for choice in field.validation_alias.choices if isinstance(choice, str))
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseSettings):
            found |= _names(field.annotation)
    return found


def test_where_things_lie(tmp_path: Path) -> None:
    assert settings.home(tmp_path) == tmp_path / "data/runs/prefect"
    assert settings.run_root(tmp_path, {}) == tmp_path / "data/runs"
    assert settings.run_root(tmp_path, {"TUTELAGE_RUNS": "/big"}) == Path("/big")


def test_patience__comes_from_the_environment_and_never_lets_two_write_one_stage() -> None:
    assert settings.patience({}) == (180.0, 300)
    assert settings.patience({"TUTELAGE_AWAY_SECONDS": "15", "TUTELAGE_SILENCE_SECONDS": "60"}) == (15.0, 60)
    for away, silence in (("15", "59"), ("300", "300"), ("0", "300")):
        with pytest.raises(ValueError, match=f"TUTELAGE_AWAY_SECONDS is {away} and TUTELAGE_SILENCE_SECONDS {silence}"):
            settings.patience({"TUTELAGE_AWAY_SECONDS": away, "TUTELAGE_SILENCE_SECONDS": silence})
