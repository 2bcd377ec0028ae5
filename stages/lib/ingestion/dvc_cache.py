"""DVC's local caches, found without DVC: importing it takes seconds, and a stage runs while DVC holds its own lock."""

import configparser
import hashlib
import os
from pathlib import Path


def folders() -> list[Path]:
    """Local caches of this checkout and of the repository DVC runs for, as their configurations say."""
    roots = dict.fromkeys([Path.cwd(), Path(os.environ.get("DVC_ROOT", ".")).absolute()])
    return [_folder(root / ".dvc") for root in roots if (root / ".dvc").is_dir()]


def place(cache: Path, md5: str) -> Path:
    """Where a cache keeps the file with this content; whether it does is another question."""
    return cache / "files" / "md5" / md5[:2] / md5[2:]


def md5(path: Path) -> str:
    """Hex digest by which DVC names a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _folder(dvc: Path) -> Path:
    for name in ("config.local", "config"):
        config = configparser.ConfigParser(interpolation=None, strict=False)
        try:
            config.read(dvc / name)
        except configparser.Error:
            continue
        if config.has_option("cache", "dir"):
            return dvc / config.get("cache", "dir").strip("'\" ")  # relative to .dvc, as DVC has it
    return dvc / "cache"
