"""Puts a set's shards and index into a bucket: shards, then what timm reads, then the index, so never half a set.

<uri>/shards/<set>/*.tar and _info.json, <uri>/index/<set>.parquet: as under data/, and as `shard.published_uri: <uri>` reads them.
"""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from stages.lib.core import parquet, seal
from stages.lib.core.outcome import Refusal
from stages.lib.core.upload import Sent, upload

INFO = "_info.json"


def publish(set_name: str, uri: str, data: Path = Path("data")) -> Sent:
    """Every shard is compared with the index before anything is sent. Raises Refusal naming what is missing or differs."""
    index, folder = data / f"index/{set_name}.parquet", data / f"shards/{set_name}"
    facts = _facts(index)
    _must_agree(folder, facts)
    tars = {f"shards/{set_name}/{name}": folder / name for name in facts}
    info, listed = f"shards/{set_name}/{INFO}", f"index/{set_name}.parquet"
    expected = {f"shards/{set_name}/{name}": fact["sha256"] for name, fact in facts.items()}
    return upload(tars | {info: folder / INFO, listed: index}, uri, (info, listed), expected)


def sharded(data: Path = Path("data")) -> list[str]:
    """Names of the sets that have an index. Raises Refusal where there is none."""
    names = sorted(path.stem for path in (data / "index").glob("[!.]*.parquet"))
    if not names:
        raise Refusal(
            f"There is no index in {data / 'index'}. `dvc repro` makes one; `dvc pull` fetches one made elsewhere."
        )
    return names


def _facts(index: Path) -> dict[str, dict[str, Any]]:
    """tar -> {sha256, bytes, images, split}, as the index lists them."""
    if not index.is_file():
        raise Refusal(f"There is no index {index}. `dvc repro -s shard@{index.stem}` makes it.")
    with parquet.understood(index):
        return parquet.shards(seal.unbroken(pq.read_schema(index).metadata))


def _must_agree(folder: Path, facts: dict[str, dict[str, Any]]) -> None:
    """Raises Refusal unless the folder and its _info.json hold the shards of the index, each of its length."""
    found = {path.name: path.stat().st_size for path in folder.glob("*.tar")}
    wrong = [name for name, fact in facts.items() if found.get(name) != fact["bytes"]]
    extra = sorted(found.keys() - facts.keys())
    listed: dict[str, int] = {}
    if (folder / INFO).is_file():
        for split in json.loads((folder / INFO).read_text())["splits"].values():
            listed |= dict(zip(split["filenames"], split["shard_lengths"], strict=True))
    if listed != {name: fact["images"] for name, fact in facts.items()}:
        wrong.append(INFO)
    if wrong or extra:
        raise Refusal(
            f"{folder} is not what its index lists: missing or different {', '.join(wrong[:5]) or 'nothing'}, not listed "
            f"{', '.join(extra[:5]) or 'nothing'}. `dvc checkout {folder}` restores it; nothing was uploaded."
        )
