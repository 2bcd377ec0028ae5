"""A temporary project around raw images that a test makes, and the three data stages run in this very process."""

import io
import os
import signal
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from ruamel.yaml import YAML

from stages import ingest, scan, shard
from stages.lib.data.index import Index, read_index

ROOT = Path(__file__).parents[2]
STAGES = {"scan": scan.main, "ingest": ingest.main, "shard": shard.main}


def picture(seed: int, size: tuple[int, int] = (20, 14), mode: str = "RGB") -> Image.Image:
    """A picture of smooth random colours, so that JPEG keeps it roughly."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC).convert(mode)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """An image file in memory."""
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return file.getvalue()


def png(seed: int) -> bytes:
    return encoded(picture(seed))


def tar_of(path: Path, files: dict[str, bytes]) -> Path:
    """A plain tar; a name that ends in `/` is a folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            tar.addfile(info, io.BytesIO(data))
    return path


def folder_of(path: Path, files: dict[str, bytes], age: float = 100.0) -> Path:
    """The same as a folder; files are `age` seconds old, so that a scan may trust their times."""
    for name, data in files.items():
        file = path / name
        (file if name.endswith("/") else file.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            file.write_bytes(data)
            os.utime(file, ns=(0, file.stat().st_mtime_ns - int(age * 1e9)))
    return path


class RawProject:
    """A folder with params.yaml and the raw source of one set, `things`."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.monkeypatch = folder, monkeypatch
        self.raw = folder / "data" / "raw"
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("stages", "dvc.yaml"):
            (folder / name).symlink_to(ROOT / name)
        self.values = YAML(typ="safe").load(ROOT / "params.yaml")
        self.params("sources", things={"layout": "folder", "path": "things"})
        self.params("system", processes=1)

    def params(self, block: str, **changes: Any) -> None:
        self.values[block].update(changes)
        with (self.folder / "params.yaml").open("w") as file:
            YAML().dump(self.values, file)

    def tar(self, files: dict[str, bytes], layout: str = "folder") -> Path:
        self.params("sources", things={"layout": layout, "path": "things.tar"})
        return tar_of(self.raw / "things.tar", files)

    def tree(self, files: dict[str, bytes], layout: str = "folder") -> Path:
        self.params("sources", things={"layout": layout, "path": "things"})
        return folder_of(self.raw / "things", files)

    def run(self, *stages: str) -> "RawProject":
        for stage in stages:
            with self.monkeypatch.context() as patch:
                patch.chdir(self.folder)
                patch.setattr(sys, "argv", [stage, "things"])
                STAGES[stage]()
        return self

    def table(self, what: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = pq.read_table(self.folder / f"data/{what}/things.parquet").to_pylist()
        return rows

    def listing(self) -> dict[str, dict[str, Any]]:
        return {row["member"]: row for row in self.table("listing")}

    def rejected(self) -> str:
        return (self.folder / "data/manifest/things-rejected.csv").read_text()

    def index(self, split: str = "train") -> Index:
        return read_index(self.folder / "data/index/things.parquet", split)

    @property
    def shards(self) -> Path:
        return self.folder / "data/shards/things"

    def outputs(self) -> dict[str, bytes]:
        """Every byte the stages have made."""
        made = [*self.folder.glob("data/[!r]*/**/*")]
        return {str(file.relative_to(self.folder)): file.read_bytes() for file in made if file.is_file()}


@pytest.fixture
def raw_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RawProject]:
    """Stages catch signals in their process, which is this one: give the handlers back."""
    for variable in ("TUTELAGE_RUNS", "TUTELAGE_RAW", "DVC_ROOT"):
        monkeypatch.delenv(variable, raising=False)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield RawProject(tmp_path / "project", monkeypatch)
    for number, handler in handlers.items():
        signal.signal(number, handler)
