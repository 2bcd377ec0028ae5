"""Publishing: a whole, proven model or nothing, and nobody's files are lost for it."""

import json
import os
from pathlib import Path

import pytest

from stages.lib.core import files, upload
from stages.lib.core.outcome import Refusal
from stages.lib.models import folder, publish_model
from stages.lib.models.publish_model import publish
from tests.s3 import Server


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """data/exported with one model."""
    model = tmp_path / "data/exported/student"
    model.mkdir(parents=True)
    for name in ("model.safetensors", "config.json", "README.md", "model.onnx"):
        (model / name).write_text(f"{name} of the student")
    (model / "parity.json").write_text(json.dumps({"files": ["config.json", "model.onnx", "model.safetensors"]}))
    return model.parent


def test_names__are_those_of_model_folders() -> None:
    assert (publish_model.WEIGHTS, publish_model.CONFIG) == (folder.WEIGHTS, folder.CONFIG)


def test_publish__to_a_folder(exported: Path, tmp_path: Path) -> None:
    place = tmp_path / "hub/student"
    assert "5 files" in publish("student", str(place), exported)
    assert files.sha256(place) == files.sha256(exported / "student")
    assert "already" in publish("student", str(place), exported)
    (exported / "student/README.md").write_text("reworded")
    publish("student", str(place), exported)  # a newer model takes the place of the older
    assert (place / "README.md").read_text() == "reworded"


def test_publish__copies_content_not_links(exported: Path, tmp_path: Path) -> None:
    """DVC may hold an out as a link to its cache; what is published must outlive that."""
    weights = exported / "student/model.safetensors"
    weights.rename(tmp_path / "cache")
    weights.symlink_to(tmp_path / "cache")
    publish("student", str(tmp_path / "hub"), exported)
    assert not (tmp_path / "hub/model.safetensors").is_symlink()


@pytest.mark.parametrize("missing", ["model.safetensors", "config.json", "parity.json", "model.onnx"])
def test_publish__half_a_model_is_refused(exported: Path, tmp_path: Path, missing: str) -> None:
    (exported / "student" / missing).unlink()
    with pytest.raises(Refusal, match=f"lacks {missing}"):
        publish("student", str(tmp_path / "hub"), exported)
    assert not (tmp_path / "hub").exists()


def test_publish__killed_while_copying_leaves_the_old_model(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "hub"
    publish("student", str(place), exported)
    before = files.sha256(place)
    (exported / "student/README.md").write_text("reworded")
    copied: list[str] = []

    def die(source: Path, target: Path) -> None:
        copied.append(str(source))
        if len(copied) == 3:
            raise KeyboardInterrupt
        target.write_bytes(source.read_bytes())

    monkeypatch.setattr("shutil.copyfile", die)
    with pytest.raises(KeyboardInterrupt):
        publish("student", str(place), exported)
    assert files.sha256(place) == before and sorted(os.listdir(tmp_path)) == ["data", "hub"]


@pytest.mark.parametrize("there", ["notes.txt", ".git/config"])
def test_publish__never_replaces_a_folder_of_somebody_else(exported: Path, tmp_path: Path, there: str) -> None:
    path = tmp_path / "hub" / there
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(Refusal, match="would be lost"):
        publish("student", str(tmp_path / "hub"), exported)
    assert path.read_text() == "mine"


def test_publish__a_clone_with_a_model_in_it_keeps_its_history(exported: Path, tmp_path: Path) -> None:
    publish("student", str(tmp_path / "hub"), exported)
    (tmp_path / "hub/.git").mkdir()
    (exported / "student/README.md").write_text("reworded")
    with pytest.raises(Refusal, match=r"holds the folder \.git"):
        publish("student", str(tmp_path / "hub"), exported)


def test_publish__unknown_models_and_places_are_named(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="exported are: student"):
        publish("teacher", str(tmp_path / "hub"), exported)
    with pytest.raises(Refusal, match="neither s3://bucket/prefix nor a folder"):
        publish("student", "gs://bucket/x", exported)


def test_publish__to_a_bucket_config_json_goes_last(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Path, str, list[str]]] = []

    def uploaded(folder: Path, uri: str, last: list[str]) -> upload.Sent:
        asked.append((folder, uri, last))
        return upload.Sent(5, 0)

    monkeypatch.setattr(upload, "upload_folder", uploaded)
    assert "5 files uploaded" in publish("student", "s3://bucket/models/student/", exported)
    assert asked == [(exported / "student", "s3://bucket/models/student", ["config.json"])]


def test_publish__to_a_bucket(exported: Path, s3: Server) -> None:
    """The real S3 client: every file, nothing twice, a newer model whole."""
    target = f"{s3.uri}/models/student"
    assert "5 files uploaded, 0 lay there" in publish("student", target, exported)
    assert "0 files uploaded, 5 lay there" in publish("student", target, exported)
    names = ["README.md", "config.json", "model.onnx", "model.safetensors", "parity.json"]
    assert s3.keys() == [f"models/student/{name}" for name in names]
    assert all(s3.get(f"models/student/{name}") == (exported / "student" / name).read_bytes() for name in names)


def test_publish__to_a_bucket_that_fails_half_way_shows_no_model(exported: Path, s3: Server) -> None:
    target = f"{s3.uri}/models/student"
    publish("student", target, exported)
    (exported / "student/model.safetensors").write_text("newer weights")
    (exported / "student/config.json").write_text("newer config")
    s3.faults("503", "model.safetensors", method="PUT")
    with pytest.raises(OSError):
        publish("student", target, exported)
    assert "models/student/config.json" not in s3.keys()  # a loader finds nothing rather than a mixture
    s3.heal()
    publish("student", target, exported)
    assert s3.get("models/student/config.json") == b"newer config"
