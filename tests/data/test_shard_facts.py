"""Facts about shards: what a look at a tar finds, and that nothing is told of it that is not in the guide."""

import hashlib
import io
import tarfile
from pathlib import Path

import pandas as pd

from stages.lib.data import shard_facts, tar_look
from tests import fabricated


def test_read__has_the_columns_it_tells_of(tmp_path: Path) -> None:
    rows, listed = fabricated.write_set(tmp_path)
    facts = shard_facts.read(
        tmp_path / "manifest/toy.parquet", tmp_path / "index/toy.parquet", tmp_path / "shards/toy", "toy"
    )
    assert {name: set(found) for name, found in facts.items()} == {
        name: set(columns) for name, columns in shard_facts.GUIDE.items()
    }
    images = facts["images"]
    assert list(images["key"]) == list(rows["key"]) and images["stored_bytes_match"].all()
    assert all(images[f"times_in_{where}"].eq(1).all() for where in ("manifest", "index", "shards"))
    assert list(facts["shards"]["shard"]) == sorted(listed)
    assert list(facts["splits"]["images_in_info"]) == [24, 12]


def test_look__finds_names_too_long_for_one_header_and_two_of_a_key(tmp_path: Path) -> None:
    long, payload = (
        "/".join(["n" * 90] * 4),
        b"pixels",
    )  # more than ustar's 256 characters: an extended header comes first
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in (
            (f"{long}.jpg", payload),
            (f"{long}.cls", b"7"),
            ("b.png", b"1"),
            ("b.cls", b"x"),
            ("b.png", b"2"),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    offset = path.read_bytes().index(payload)
    digest = hashlib.sha256(payload).hexdigest()
    rows = pd.DataFrame({"offset": [offset, offset, -1], "size": [6, 5, 6], "sha256": [digest] * 3})
    seen = tar_look.look(path, rows)
    assert list(seen.match) == [True, False, False]
    assert list(seen.found["key"]) == [long, "b", "b"]
    assert list(seen.found["label_in_shard"]) == [7, -1, -1]
    assert seen.found["offset"][0] == offset
    assert (seen.bytes, seen.sha256, seen.problem) == (
        path.stat().st_size,
        hashlib.sha256(path.read_bytes()).hexdigest(),
        "",
    )
