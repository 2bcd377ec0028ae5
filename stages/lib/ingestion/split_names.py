"""Which split a file belongs to, from its name, as the hub and webdataset's users name files."""

import re

from stages.lib.core.outcome import Refusal
from stages.lib.ingestion.layout import SPLITS

WORDS = {**SPLITS, "valid": "val", "dev": "val"}
"""Word in a file or folder name, in lower case -> split."""


def split_of(path: str) -> str:
    """`data/train-00000-of-00294.parquet` -> train; the file's name counts before its folders'; empty: none is named.

    Raises Refusal for a name like `train-val-000.tar`.
    """
    for part in reversed(path.split("/")):
        found = {WORDS[word] for word in re.split("[^a-z]+", part.lower()) if word in WORDS}
        if len(found) > 1:
            raise Refusal(
                f"{path} names the splits {' and '.join(sorted(found))}, so it is not clear which its images belong to. "
                "Rename it; train, val (or valid, validation, dev) and test are understood."
            )
        if found:
            return found.pop()
    return ""
