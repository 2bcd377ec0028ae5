"""Puts an exported model where others find it, a bucket or a folder like a hub's repository: all of it appears, or nothing."""

import json
import shutil
from pathlib import Path

from stages.lib.core import files, objects, upload
from stages.lib.core.outcome import Refusal

WEIGHTS, CONFIG = (
    "model.safetensors",
    "config.json",
)  # as models/folder.py has them; importing that would bring all of torch
PARITY, CARD = "parity.json", "README.md"
NEEDED = (WEIGHTS, CONFIG, CARD, PARITY)


def publish(name: str, target: str, exported: Path = Path("data/exported")) -> str:
    """Publish data/exported/<name> at `target`, s3://bucket/prefix or a folder; what was done, in a sentence. Raises Refusal."""
    built = exported / name
    whole(built, exported)
    if objects.is_remote(target):
        # config.json is what every loader opens first: without it there is no model to be seen
        sent = upload.upload_folder(built, target.rstrip("/"), [CONFIG])
        return f"{name} is at {target}: {sent.uploaded} files uploaded, {sent.kept} lay there already"
    if "://" in target:
        raise Refusal(f"{target} is neither s3://bucket/prefix nor a folder; models are published nowhere else.")
    place = Path(target)
    if place.is_dir() and files.sha256(place) == files.sha256(built):
        return f"{name} is in {place} already, file by file"
    free(place)
    copy(built, place)
    return f"{name} is in {place}: {len(list(place.rglob('*')))} files"


def whole(built: Path, exported: Path) -> None:
    """Raise Refusal unless the folder holds a proven model and everything its parity.json speaks of."""
    if not built.is_dir():
        there = sorted(path.name for path in exported.glob("[!.]*") if path.is_dir())
        raise Refusal(
            f"There is no {built}; exported are: {', '.join(there) or 'none'}. `dvc repro export@{built.name}` makes it."
        )
    missing = [file for file in NEEDED if not (built / file).is_file()]
    if not missing:
        missing = [file for file in json.loads((built / PARITY).read_text())["files"] if not (built / file).is_file()]
    if missing:
        raise Refusal(
            f"{built} lacks {', '.join(missing)}: half a model is not published. `dvc repro export@{built.name}` makes it."
        )


def free(place: Path) -> None:
    """Raise Refusal where the folder holds something that no model published here would: it would be lost."""
    if place.exists() and not place.is_dir():
        raise Refusal(f"{place} is a file; name a folder.")
    there = sorted(place.iterdir()) if place.exists() else []
    if there and not all((place / file).is_file() for file in NEEDED):
        raise Refusal(
            f"{place} holds {', '.join(path.name for path in there[:3])}{' ...' if there[3:] else ''} and is no model that was "
            "published; its content would be lost. Name an empty or a new folder."
        )
    if strange := [path.name for path in there if path.is_dir()]:
        raise Refusal(f"{place} holds the folder {strange[0]}, which would be lost. Name an empty or a new folder.")


def copy(built: Path, place: Path) -> None:
    """Copy into a fresh folder, compare, and swap it in. Raises Refusal where a copy differs."""
    with files.replace_folder(place) as fresh:
        for path in sorted(path for path in built.rglob("*") if path.is_file()):
            with files.replace(fresh / path.relative_to(built)) as temporary:
                shutil.copyfile(path, temporary)  # DVC may hold the original as a link to its cache: copy the content
        if files.sha256(fresh) != files.sha256(built):
            raise Refusal(
                f"the copy in {fresh} is not what {built} holds; is the disk in order? Nothing was published."
            )
