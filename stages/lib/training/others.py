"""Which of a model's classes are those of another set? Matched by name, by wnid, or by number; never guessed."""

import re
from collections.abc import Sequence

import numpy as np

from stages.lib.core.outcome import Refusal
from stages.lib.data.index import Index

WNID = re.compile(r"(?:^|/)(n\d{8})(?:/|$)")


def places(theirs: Sequence[str], main: Index) -> np.ndarray:
    """i64[len(theirs)]: the label in the main set of each class of another set.

    Named as the main set names them; or by the wnids that stand in its keys (ImageNet-A, -R, -Sketch as published); or by the
    numbers of its labels (ImageNet-V2). Raises Refusal where none of these fits all classes.
    """
    numbers = {str(label): label for label in range(len(main.classes))}
    ways = ({name: label for label, name in enumerate(main.classes)}, wnids(main), numbers)
    for known in ways:
        if all(name in known for name in theirs):
            return np.array([known[name] for name in theirs])
    odd = [name for name in theirs if not any(name in known for known in ways)] or list(theirs)
    raise Refusal(
        f"{len(odd)} of the {len(theirs)} classes are not those of {main.set_name}: {', '.join(odd[:5])}"
        f"{' ...' if len(odd) > 5 else ''}. A robustness set names its classes as {main.set_name} does, by their wnids, or by the "
        "numbers of its labels, all in one way."
    )


def wnids(main: Index) -> dict[str, int]:
    """wnid -> label, of the first image of each label that has one in its key; empty for sets without."""
    _, first = np.unique(main.labels, return_index=True)
    found = {match[1]: int(main.labels[row]) for row in first if (match := WNID.search(main.keys[row]))}
    return found if len(found) == len(first) else {}
