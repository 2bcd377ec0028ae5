"""S3: the seam that fetching is written against; the part that owns S3 brings the real one under the same names."""

from pathlib import Path

from stages.lib.core.outcome import Refusal


def is_remote(uri: str) -> bool:
    """Whether this is s3://bucket/key."""
    return uri.startswith("s3://")


def download(uri: str, path: Path, sha256: str = "") -> None:
    """Copy to `path`, whole or not at all. Raises Refusal."""
    raise Refusal(f"{uri}: S3 is not joined here yet, so {path} was not fetched{f' ({sha256})' if sha256 else ''}.")
