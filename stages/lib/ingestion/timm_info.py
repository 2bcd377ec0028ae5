"""_info.json beside the shards: timm's description of a webdataset, splits with their tars and the images in each."""

import json
from collections.abc import Sequence
from typing import Any

from stages.lib.ingestion.plan import Planned

NAME = "_info.json"


def text(planned: Sequence[Planned]) -> str:
    """The file's content."""
    splits: dict[str, Any] = {}
    for one in planned:
        split = splits.setdefault(
            one.split, {"name": one.split, "num_samples": 0, "filenames": [], "shard_lengths": []}
        )
        split["num_samples"] += len(one.images)
        split["filenames"].append(one.name)
        split["shard_lengths"].append(len(one.images))
    return json.dumps({"splits": splits}, indent=1) + "\n"
