"""Fetched files: kept by their sha256, proven before they get a name, from a web server, a bucket or the hub's own cache."""

import hashlib
import threading
from pathlib import Path

import pytest

from stages.lib.core import content, fetch, objects
from stages.lib.core.outcome import Refusal
from tests.s3 import Server

DATA = b"weights" * 1000
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUTELAGE_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """What lies in S3, as far as fetching sees it."""
    there: dict[str, bytes] = {}

    def download(uri: str, path: Path, sha256: str = "") -> None:
        del sha256
        there["asked"] = there.get("asked", b"") + b"x"
        path.write_bytes(there[uri])

    monkeypatch.setattr(objects, "download", download)
    return there


def on_hub(cache: Path, name: str, data: bytes) -> None:
    """A repository in the hub library's cache, as its own download leaves it."""
    place = cache / f"models--{name.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    (place / "snapshots" / ("0" * 40)).mkdir(parents=True)
    (place / "snapshots" / ("0" * 40) / "model.safetensors").write_bytes(data)


@pytest.mark.parametrize("digits", [8, 64])
def test_fetch__keeps_by_digest_and_asks_once(bucket: dict[str, bytes], runs: Path, digits: int) -> None:
    bucket["s3://bucket/w.pth"] = DATA
    path = fetch.fetch("s3://bucket/w.pth", DIGEST[:digits])
    assert path == runs / "fetched" / DIGEST and path.read_bytes() == DATA
    assert fetch.fetch("https://elsewhere.invalid/w.pth", DIGEST[:digits]) == path  # the content counts, not the place
    assert bucket["asked"] == b"x"


def test_fetch__another_file_than_named_gets_no_name(bucket: dict[str, bytes], runs: Path) -> None:
    bucket["s3://bucket/w.pth"] = DATA[:-1] + b"?"
    with pytest.raises(Refusal, match=f"has sha256 [0-9a-f]{{64}}, but {DIGEST} was named"):
        fetch.fetch("s3://bucket/w.pth", DIGEST)
    assert [path.name for path in (runs / "fetched").iterdir()] == [f"{DIGEST}.lock"]


def test_find__a_kept_file_that_was_damaged_is_fetched_again(bucket: dict[str, bytes]) -> None:
    bucket["s3://bucket/w.pth"] = DATA
    path = fetch.fetch("s3://bucket/w.pth", DIGEST)
    path.write_bytes(DATA[:-1])
    assert content.find(DIGEST) is None and not path.exists()
    assert fetch.fetch("s3://bucket/w.pth", DIGEST).read_bytes() == DATA


def test_fetch__two_at_once_fetch_once(bucket: dict[str, bytes]) -> None:
    bucket["s3://bucket/w.pth"] = DATA
    threads = [threading.Thread(target=fetch.fetch, args=("s3://bucket/w.pth", DIGEST)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bucket["asked"] == b"x"


def test_fetch__a_name_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub library itself, offline, finds it in its cache; a name that is not there may be had another time."""
    on_hub(tmp_path / "hub", "timm/regnety_160.deit_in1k", DATA)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert fetch.fetch("timm/regnety_160.deit_in1k", DIGEST).read_bytes() == DATA
    with pytest.raises(OSError, match="cannot be reached"):
        fetch.fetch("timm/regnety_080.ra3_in1k", "0" * 64)


def test_fetch__knows_three_kinds_of_place() -> None:
    with pytest.raises(Refusal, match="no remote file"):
        fetch.fetch("http://127.0.0.1/w.pth", DIGEST)


@pytest.mark.parametrize("kind", ["500", "503", "cut", "flip"])
def test_fetch__from_a_bucket_that_fails(s3: Server, runs: Path, kind: str) -> None:
    """The real S3 client against a server that breaks twice: the right bytes."""
    uri = s3.put("teachers/w.pth", DATA)
    s3.faults(kind, "w.pth", times=2)
    assert fetch.fetch(uri, DIGEST).read_bytes() == DATA
    assert s3.struck and [path.name for path in (runs / "fetched").iterdir() if not path.suffix] == [DIGEST]


def test_fetch__from_a_bucket_that_lacks_it(s3: Server) -> None:
    with pytest.raises(Refusal, match=r"no\.pth"):
        fetch.fetch(f"{s3.uri}/no.pth", DIGEST)
    uri = s3.put("other.pth", b"another file")
    with pytest.raises(Refusal, match=f"{DIGEST[:8]} was named"):
        fetch.fetch(uri, DIGEST[:8])


def test_fetch__an_object_that_is_too_large_is_refused(s3: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = s3.put("w.pth", DATA)
    monkeypatch.setattr(objects, "MOST_BYTES", len(DATA) - 1)
    with pytest.raises(Refusal, match="7,000 bytes, more than the 6,999"):
        fetch.fetch(uri, DIGEST)
    assert s3.counts["GET", "w.pth"] == 1  # its first block says how large it is
    monkeypatch.setattr(objects, "MOST_BYTES", len(DATA))  # the control
    assert fetch.fetch(uri, DIGEST).read_bytes() == DATA
