"""Fetch a file by its sha256: what `teacher.source` names, ahead of time or when the teacher stage asks. No stage of the pipeline.

in    https://..., s3://... or timm/<name>, and the first 8 to 64 hex digits of the file's sha256
out   <run root>/fetched/<sha256>
run   python -m stages.fetch https://host/file.pth a5fe301d

How a file arrives cannot change what it is, so this is no reason for anything to run again: the teacher stage starts it as a
program of its own, and proves the digest itself.
"""

import logging
import re
import sys

from stages.lib.core import fetch, outcome
from stages.lib.core.outcome import Refusal

log = logging.getLogger(__name__)


def main() -> None:
    """Raises Refusal."""
    if len(sys.argv) != 3 or not re.fullmatch(r"[0-9a-f]{8,64}", sys.argv[2]):
        raise Refusal("use: python -m stages.fetch https://...|s3://...|timm/<name> <8 to 64 hex digits of its sha256>")
    source, sha256 = sys.argv[1:]
    log.info("%s", fetch.fetch(source, sha256))


if __name__ == "__main__":
    outcome.run("fetch@file", main)
