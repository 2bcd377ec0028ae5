"""Put what the pipeline has made where others find it. No DVC stage: nothing in the repository depends on it.

in    data/shards/<set>/, data/index/<set>.parquet; or data/exported/<model>/
out   <uri>/shards/<set>/, <uri>/index/<set>.parquet    whole or not at all; what lies there already is not sent again
      a model's files in a bucket or a folder           the same
run   python -m stages.publish shards [<set> ...] s3://bucket/prefix    without a name: every set that has an index
      python -m stages.publish model student s3://bucket/models/student
"""

import logging
import sys

from stages.lib.core import outcome
from stages.lib.core.outcome import Refusal
from stages.lib.core.s3 import split
from stages.lib.data import publish_shards
from stages.lib.models import publish_model

log = logging.getLogger(__name__)
USE = (
    "use: python -m stages.publish shards [<set> ...] s3://bucket/prefix\n"
    "     python -m stages.publish model <model> <s3://bucket/prefix or folder>"
)


def main() -> None:
    """Raises Refusal."""
    match sys.argv[1:]:
        case ["shards", *names, uri]:
            split(uri)
            for name in names or publish_shards.sharded():
                sent = publish_shards.publish(name, uri)
                log.info("%s is at %s: %d objects uploaded, %d lay there already", name, uri, *sent)
        case ["model", name, target]:
            log.info("%s", publish_model.publish(name, target))
        case _:
            raise Refusal(USE)


if __name__ == "__main__":
    outcome.run("publish", main)
