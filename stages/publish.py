"""Put what the pipeline has made where others find it. No DVC stage: nothing in the repository depends on it.

in    data/shards/<set>/, data/index/<set>.parquet
out   <uri>/shards/<set>/, <uri>/index/<set>.parquet    whole or not at all; what lies there already is not sent again
run   python -m stages.publish shards [<set> ...] s3://bucket/prefix    without a name: every set that has an index
"""

import logging
import sys

from stages.lib.core import outcome
from stages.lib.core.outcome import Refusal
from stages.lib.core.s3 import split
from stages.lib.data import publish_shards

log = logging.getLogger(__name__)
USE = "use: python -m stages.publish shards [<set> ...] s3://bucket/prefix"


def main() -> None:
    """Raises Refusal."""
    if len(sys.argv) < 3 or sys.argv[1] != "shards":
        raise Refusal(USE)
    *names, uri = sys.argv[2:]
    split(uri)
    for name in names or publish_shards.sharded():
        sent = publish_shards.publish(name, uri)
        log.info("%s is at %s: %d objects uploaded, %d lay there already", name, uri, *sent)


if __name__ == "__main__":
    outcome.run("publish", main)
