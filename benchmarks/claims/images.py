"""The small image sets that claims are tried on: a fixed share of CIFAR-10, the same on every machine."""

import hashlib
import io
import tarfile
from collections import defaultdict
from pathlib import Path

from benchmarks.claims.recipes import CIFAR
from stages.lib.core.outcome import Refusal

SHARES = {"train": 1000, "val": 50, "test": 400}
"""Images of each class; validation is taken from the other end of the training images."""


def make(archive: Path, raw: Path) -> None:
    """Write `raw`/<set>.tar out of an archive of <split>/<class>/<image>. Raises Refusal where it is not like that."""
    found: dict[tuple[str, str], list[tuple[str, str, bytes]]] = defaultdict(list)
    with tarfile.open(archive) as tar:
        for member in tar:
            parts = member.name.removeprefix("./").split("/")
            if member.isfile() and len(parts) == 3 and (file := tar.extractfile(member)):
                split, name, image = parts
                found[split, name].append((hashlib.sha256(f"{name}/{image}".encode()).hexdigest(), image, file.read()))
    if {split for split, _ in found} != {"train", "test"}:
        raise Refusal(f"{archive} does not hold train/<class>/<image> and test/<class>/<image>; name CIFAR-10 as JPEGs")
    raw.mkdir(parents=True, exist_ok=True)
    with tarfile.open(raw / f"{CIFAR}.tar", "w") as out:
        for (split, name), images in sorted(found.items()):
            images.sort()
            for _, image, data in images[: SHARES[split]]:
                _put(out, f"{split}/{name}/{image}", data)
            for _, image, data in images[-SHARES["val"] :] if split == "train" else ():
                _put(out, f"val/{name}/{image}", data)


def _put(out: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)  # no time, no owner: the same bytes everywhere
    entry.size = len(data)
    out.addfile(entry, io.BytesIO(data))
