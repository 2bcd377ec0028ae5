"""Small JPEGs for the benchmark's tests."""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

COUNT = 5


def jpegs(count: int = COUNT, width: int = 60, height: int = 44) -> list[bytes]:
    """Smooth noise, so that a resized crop is no constant."""
    rng, made = np.random.default_rng(0), []
    for _ in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize(
            (width, height), Image.Resampling.BICUBIC
        )
        file = io.BytesIO()
        coarse.save(file, "JPEG", quality=90)
        made.append(file.getvalue())
    return made


def folder(path: Path) -> Path:
    """JPEGs at several depths, under names that say nothing, among other files."""
    for number, data in enumerate(jpegs()):
        file = path / "/".join(["deep"] * number) / f"{number}.photo"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    (path / "README.txt").write_text("no picture")
    return path


def tar(path: Path, mode: str = "w") -> Path:
    """The same in a tar."""
    with tarfile.open(path, mode) as file:  # type: ignore[call-overload]
        for number, data in enumerate(jpegs()):
            info = tarfile.TarInfo(f"some/where/{number}")
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path
