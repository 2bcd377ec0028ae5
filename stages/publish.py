"""Publish what was made, to a bucket or a folder. A command for people, no stage of the pipeline: nothing runs again for it.

in    data/exported/<model>
out   the same files at s3://bucket/prefix or in a folder, whole or not at all
run   python -m stages.publish model student s3://bucket/models/student
"""

import logging
import sys

from stages.lib.core import outcome
from stages.lib.core.outcome import Refusal
from stages.lib.models import publish_model

log = logging.getLogger(__name__)
USE = "use: python -m stages.publish model <model> <s3://bucket/prefix or folder>"


def main() -> None:
    """Raises Refusal."""
    match sys.argv[1:]:
        case ["model", name, target]:
            log.info("%s", publish_model.publish(name, target))
        case _:
            raise Refusal(USE)


if __name__ == "__main__":
    outcome.run("publish@model", main)
