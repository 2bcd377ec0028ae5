"""What a reader of a bucket meets while files go up, and after whatever went wrong."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from stages.lib.core import upload
from stages.lib.core.outcome import Refusal
from stages.lib.core.s3 import Unavailable
from stages.lib.core.upload import Sent, upload_folder
from tests.s3 import Server

FILES = {"model.safetensors": b"weights" * 1000, "notes/a.txt": b"", "config.json": b"{}", "README.md": b"# card"}
LAST = ["README.md", "config.json"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "model", FILES)


def write(folder: Path, contents: dict[str, bytes]) -> Path:
    for name, data in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def changes(s3: Server) -> list[tuple[str, str]]:
    """Requests that change the bucket, in order."""
    return [(one.method, one.key) for one in s3.seen if one.method in ("PUT", "POST", "DELETE")]


def stored(s3: Server, prefix: str = "m/") -> dict[str, bytes]:
    return {key.removeprefix(prefix): s3.get(key) for key in s3.keys()}


def test_upload__what_makes_the_rest_visible_goes_last_and_a_second_time_nothing_goes(s3: Server, folder: Path) -> None:
    assert upload_folder(folder, f"{s3.uri}/m", LAST) == Sent(4, 0)
    assert stored(s3) == FILES
    sent = changes(s3)
    assert sorted(sent[:2]) == [("PUT", "m/model.safetensors"), ("PUT", "m/notes/a.txt")]
    assert sent[2:] == [("PUT", "m/README.md"), ("PUT", "m/config.json")]
    assert upload_folder(folder, f"{s3.uri}/m/", LAST) == Sent(0, 4)
    assert changes(s3) == sent


def test_upload__where_data_changes_a_reader_meets_nothing_meanwhile(s3: Server, folder: Path) -> None:
    upload_folder(folder, f"{s3.uri}/m", LAST)
    before = len(changes(s3))
    write(folder, {"model.safetensors": b"other"})
    assert upload_folder(folder, f"{s3.uri}/m", LAST) == Sent(3, 1)
    assert changes(s3)[before:] == [
        ("DELETE", "m/config.json"),
        ("DELETE", "m/README.md"),
        ("PUT", "m/model.safetensors"),
        ("PUT", "m/README.md"),
        ("PUT", "m/config.json"),
    ]
    assert stored(s3) == FILES | {"model.safetensors": b"other"}
    before = len(changes(s3))
    write(folder, {"config.json": b"[]"})  # one object: S3 itself swaps it
    assert upload_folder(folder, f"{s3.uri}/m", LAST) == Sent(1, 3)
    assert changes(s3)[before:] == [("PUT", "m/config.json")]


@pytest.mark.parametrize("kind", ["500", "cut", "expired"])
def test_upload__broken_off_leaves_nothing_visible_and_goes_on_where_it_stopped(
    s3: Server, folder: Path, kind: str
) -> None:
    upload_folder(folder, f"{s3.uri}/m", LAST)
    write(folder, {"model.safetensors": b"other", "notes/a.txt": b"more"})
    s3.faults(kind, key="model", method="PUT")
    with pytest.raises(Refusal if kind == "expired" else Unavailable):
        upload_folder(folder, f"{s3.uri}/m", LAST)
    assert not {"README.md", "config.json"} & stored(s3).keys()
    s3.heal()
    upload_folder(folder, f"{s3.uri}/m", LAST)
    assert stored(s3) == FILES | {"model.safetensors": b"other", "notes/a.txt": b"more"}
    assert sum(change == ("PUT", "m/notes/a.txt") for change in changes(s3)) == 2  # first, and before the fault


@pytest.mark.parametrize("kind", ["500", "503", "cut", "stall", "flip"])
def test_upload__past_faults(s3: Server, folder: Path, kind: str) -> None:
    s3.faults(kind, method="PUT", times=3)
    upload_folder(folder, f"{s3.uri}/m", LAST)
    assert s3.struck == 3 and stored(s3) == FILES


def test_upload__a_byte_that_always_flips_never_becomes_an_object(s3: Server, folder: Path) -> None:
    s3.faults("flip", key="safetensors", method="PUT")
    with pytest.raises(Unavailable, match="XAmzContentChecksumMismatch"):
        upload_folder(folder, f"{s3.uri}/m", LAST)
    assert stored(s3).keys() == {"notes/a.txt"}


def test_upload__an_object_that_lies_there_wrong_is_noticed(s3: Server, folder: Path) -> None:
    """Same size, same recorded sha256, other bytes: only the server's own sum tells, if it keeps one; another size always does."""
    upload_folder(folder, f"{s3.uri}/m", LAST)
    s3.client.put_object(Bucket=s3.bucket, Key="m/README.md", Body=b"# c", Metadata={"sha256": sha256(b"# card")})
    assert upload_folder(folder, f"{s3.uri}/m", LAST).uploaded == 2
    s3.client.put_object(
        Bucket=s3.bucket,
        Key="m/README.md",
        Body=b"# bird",
        Metadata={"sha256": sha256(b"# card")},
        ChecksumAlgorithm="SHA256",
    )
    assert upload_folder(folder, f"{s3.uri}/m", LAST).uploaded == 2
    assert stored(s3) == FILES


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("kind", ["", "flip"])
def test_upload__a_large_file_in_parts(s3: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(upload, "PART", 5 << 20)  # S3's smallest
    data = np.random.default_rng(0).bytes((11 << 20) + 7)
    folder = write(tmp_path / "model", {"big": data, "config.json": b"{}"})
    if kind:
        s3.faults(kind, key="big", method="PUT", times=2)
    upload_folder(folder, s3.uri, ["config.json"])
    assert stored(s3, "") == {"big": data, "config.json": b"{}"}
    assert s3.counts["PUT", "big"] == 3 + (2 if kind else 0)
    assert upload_folder(folder, s3.uri, ["config.json"]) == Sent(0, 2)


def test_upload__parts_of_a_failed_file_are_given_up(
    s3: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "PART", 5 << 20)
    folder = write(tmp_path / "model", {"big": bytes(6 << 20), "config.json": b"{}"})
    s3.faults("expired", key="big", method="PUT")
    with pytest.raises(Refusal, match="expired"):
        upload_folder(folder, s3.uri, ["config.json"])
    assert s3.keys() == []
    assert "Uploads" not in s3.client.list_multipart_uploads(Bucket=s3.bucket)


def test_upload__refuses_before_anything_is_sent(s3: Server, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="index should make the rest visible"):
        upload_folder(folder, s3.uri, ["index"])
    with pytest.raises(Refusal, match=r"README\.md has the sha256 .*, and 00 was recorded"):
        upload.upload({"README.md": folder / "README.md"}, s3.uri, ["README.md"], {"README.md": "00"})
    (tmp_path / "empty").mkdir()
    with pytest.raises(Refusal, match="nothing to upload"):
        upload_folder(tmp_path / "empty", s3.uri, [])
    assert changes(s3) == []
