"""python -m stages.publish: a sharded set in a bucket, whole or not at all, and trained on from there."""

import json
import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from stages import publish
from stages.lib.core import files
from stages.lib.core.outcome import Refusal
from stages.lib.core.upload import Sent
from stages.lib.data import publish_shards
from tests import fabricated
from tests.s3 import Server
from tests.workspace import SET, edit, run


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """data/ with the fabricated set `toy`: three tars."""
    fabricated.write_set(tmp_path / "data")
    return tmp_path / "data"


def test_publish__the_set_as_it_lies_here_and_the_index_last(s3: Server, data: Path) -> None:
    names = sorted(path.name for path in (data / "shards/toy").iterdir())
    assert publish_shards.publish("toy", f"{s3.uri}/sets", data) == Sent(len(names) + 1, 0)
    assert {key: s3.get(key) for key in s3.keys()} == {
        "sets/index/toy.parquet": (data / "index/toy.parquet").read_bytes(),
        **{f"sets/shards/toy/{name}": (data / "shards/toy" / name).read_bytes() for name in names},
    }
    assert [one.key for one in s3.seen if one.method == "PUT"][-2:] == [
        "sets/shards/toy/_info.json",
        "sets/index/toy.parquet",
    ]
    assert publish_shards.publish("toy", f"{s3.uri}/sets", data) == Sent(0, len(names) + 1)


@pytest.mark.parametrize("fault", ["changed", "missing", "extra", "info"])
def test_publish__a_set_that_is_not_its_index_is_refused_and_nothing_goes(s3: Server, data: Path, fault: str) -> None:
    folder = data / "shards/toy"
    tar = folder / "toy-train-000001.tar"
    if fault == "changed":
        content = bytearray(tar.read_bytes())
        content[700] ^= 1
        tar.write_bytes(content)
    elif fault == "missing":
        tar.unlink()
    elif fault == "extra":
        (folder / "toy-train-000009.tar").write_bytes(b"")
    else:
        info = json.loads((folder / "_info.json").read_text())
        info["splits"]["train"]["shard_lengths"][0] += 1
        (folder / "_info.json").write_text(json.dumps(info))
    named = {"info": "_info.json", "extra": "toy-train-000009.tar"}.get(fault, "toy-train-000001.tar")
    with pytest.raises(Refusal, match=rf"{named}.*dvc checkout"):
        publish_shards.publish("toy", s3.uri, data)
    assert s3.keys() == []
    with pytest.raises(Refusal, match=r"no index .*other"):
        publish_shards.publish("other", s3.uri, data)


def test_publish__both_commands(s3: Server, project: Path) -> None:
    assert "5 objects uploaded" in run(project, "stages.shard", "--publish", s3.uri, SET)
    assert "0 objects uploaded, 5 lay there" in run(project, "stages.publish", "shards", s3.uri)
    assert f"index/{SET}.parquet" in s3.keys()


@pytest.mark.slow
def test_publish__training_from_there_gives_the_same_weights(s3: Server, project: Path, tmp_path: Path) -> None:
    here, away = tmp_path / "here", tmp_path / "away"
    for folder in (here, away):
        shutil.copytree(project, folder, symlinks=True)
        block = {"pretrain.order": "block", "pretrain.window": 1, "pretrain.epochs": 1}
        edit(folder, block | {"shard.published_uri": s3.uri})
    run(here, "stages.publish", "shards", s3.uri)
    run(here, "stages.pretrain", SET)  # every shard is here: nothing is streamed
    shutil.rmtree(away / "data/shards")
    s3.proxy.seen.clear()
    s3.faults("503", key="train", times=1)
    run(away, "stages.pretrain", SET)
    encoder = Path("data/models/mae/model.safetensors")
    assert files.sha256(here / encoder) == files.sha256(away / encoder)
    fetched = [one.key.split("/")[-1] for one in s3.seen if not one.fault]
    assert sorted(fetched) == sorted(json.loads(pq.read_schema(here / f"data/index/{SET}.parquet").metadata[b"shards"]))
    assert s3.struck == 1 and not (away / "data/shards").exists()


def test_publish__says_how_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    use, address = "use: python -m stages.publish shards", "'things' is no S3 address; write s3://bucket/prefix"
    for words, said in (
        (["shards"], use),
        (["models", "s3://x/y"], use),
        (["shards", "things"], address),
        (["shards", "nowhere", "s3://bucket/x"], "There is no index data/index/nowhere.parquet"),
    ):
        monkeypatch.setattr("sys.argv", ["publish", *words])
        with pytest.raises(Refusal, match=re.escape(said)):
            publish.main()
