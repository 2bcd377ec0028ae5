"""No password leaves the environment: stages that succeed and fail on S3 and https, with planted ones, and a look at every byte."""

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.ingestion.raw_project import png
from tests.s3 import Server
from tests.workspace import ROOT, SET, edit, environment, lay_out

WORD = "pl4nted"
PLANTED = {
    "AWS_SECRET_ACCESS_KEY": f"{WORD}/aws+secret/key",
    "AWS_SESSION_TOKEN": f"{WORD}-session-token==",
    "HF_TOKEN": f"hf_{WORD}",
    "PREFECT_API_KEY": f"pnu_{WORD}",
    "PREFECT_SERVER_API_AUTH_STRING": f"admin:{WORD}",
}
SIGNED = f"X-Amz-Credential={WORD}&X-Amz-Signature={WORD}"
TREE = {
    f"{split}/{name}/{n}.png": png(10 * k + n)
    for k, name in enumerate("ab")
    for n, split in enumerate(("train", "val"))
}


def leaks(*places: Path, output: str = "") -> list[str]:
    """Files, and `output`, that hold a planted word, as it is or as base64 and addresses write it."""
    words = {word.encode() for value in (WORD, *PLANTED.values()) for word in (value, quote(value, safe=""))}
    words |= {base64.b64encode(value.encode())[:-4] for value in PLANTED.values()}
    files = [path for place in places for path in place.rglob("*") if path.is_file() and not path.is_symlink()]
    texts = {str(path): path.read_bytes() for path in files} | {"output": output.encode()}
    return [name for name, text in texts.items() if any(word in text or word in name.encode() for word in words)]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    lay_out(folder)
    return folder


def planted(monkeypatch: pytest.MonkeyPatch, endpoint_too: bool = False) -> None:
    """In the environment of whatever is started from here on."""
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    if endpoint_too:
        monkeypatch.setenv("AWS_ENDPOINT_URL", os.environ["AWS_ENDPOINT_URL"].replace("://", f"://user:{WORD}@"))


def run(folder: Path, steps: list[list[str]], *more: str) -> tuple[list[int], str]:
    """(exit codes of the stages, all that was said)."""
    command = [sys.executable, "-m", "tests.planted", json.dumps(steps), *more]
    variables = environment() | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stdout + done.stderr


SIGNED_FETCHES = [
    ["fetch", f"https://127.0.0.1:1/w.pth?{SIGNED}", "0" * 64],
    ["fetch", f"https://user:{WORD}@127.0.0.1:1/w.pth", "0" * 64],
    ["fetch", f"ftp://user:{WORD}@host/w.pth?{SIGNED}", "0" * 64],
]


def test_stages__say_and_write_no_password_whether_they_succeed_or_not(
    project: Path, s3: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("good", "denied", "cut"):
        for name, data in TREE.items():
            s3.put(f"{place}/{name}", data)
    s3.faults("expired", key="denied/")
    s3.faults("cut", key="cut/")
    sources = {name: {"layout": "folder", "path": f"{s3.uri}/{name}"} for name in ("good", "denied", "cut", "missing")}
    edit(project, {"sources": sources, "sets.main": "good", "sets.transfer": ["denied", "cut", "missing"]})
    planted(monkeypatch)
    steps = [["scan", "good"], ["ingest", "good"], ["shard", "good"], ["scan", "denied"], ["ingest", "denied"],
             ["scan", "missing"], ["scan", "cut"], ["ingest", "cut"], *SIGNED_FETCHES[1:]]  # fmt: skip
    codes, said = run(project, steps)
    assert codes == [0, 0, 0, 0, 2, 2, 0, 1, 2, 2], said
    assert (project / "data/shards/good/good-train-000000.tar").is_file() and (project / "data/runs").is_dir()
    assert not leaks(project, output=said)
    assert "***" in said  # something was there to be masked
    codes, said = run(
        project, SIGNED_FETCHES[1:], "bare"
    )  # the control: without masking the search finds it, in both places
    assert "output" in leaks(project, output=said)
    assert any("last_exit.json" in name for name in leaks(project, output=said))


def test_leaks__finds_a_planted_word_however_it_is_written(tmp_path: Path) -> None:
    for n, value in enumerate(PLANTED.values()):
        for way, text in enumerate((value.encode(), quote(value, safe="").encode(), base64.b64encode(value.encode()))):
            folder = tmp_path / f"{n}-{way}"
            (folder / "deep").mkdir(parents=True)
            (folder / "deep/file.bin").write_bytes(b"\0\xff" + text + b"\n")
            assert leaks(folder) == [str(folder / "deep/file.bin")]
    assert leaks(tmp_path / "nowhere", output=f"x{WORD}x") == ["output"]
    assert not leaks(tmp_path / "nowhere", output="clean")


@pytest.mark.slow
def test_training_and_publishing__write_no_password(project: Path, s3: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run folders, TensorBoard, histories, models, told files; a server that is never there, with a password in its address."""
    planted(monkeypatch)
    monkeypatch.setenv("TUTELAGE_TELL", str(project / "told"))
    steps = [["scan", SET], ["ingest", SET], ["shard", SET], ["publish", "shards", SET, f"{s3.uri}/sets"]]
    codes, said = run(project, steps)
    assert codes == [0, 0, 0, 0], said
    shutil.rmtree(project / "data/shards")
    edit(project, {"shard.published_uri": f"{s3.uri}/sets"})
    more = run(project, [["pretrain", SET], ["teacher", SET]])
    said += more[1]
    assert (project / "data/models/mae/model.safetensors").is_file(), more
    weights = s3.put("w.safetensors", (project / "data/models/teacher/model.safetensors").read_bytes())
    edit(project, {"teacher.source": weights, "teacher.sha256": "0" * 64, "teacher.licence": "x"})
    codes, words = run(
        project, [["teacher", SET], ["publish", "shards", SET, "s3://no-such-bucket/x"], SIGNED_FETCHES[0]]
    )
    assert 0 not in codes, words
    said += words
    planted(monkeypatch, endpoint_too=True)
    s3.faults("500")
    codes, words = run(project, [["teacher", SET], ["scan", SET]])
    said += words
    assert list(project.glob("data/runs/pretrain/*/tensorboard/*")) and (project / "told/last_exit.json").is_file()
    assert not leaks(project, output=said)
