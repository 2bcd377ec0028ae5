"""A validation split for a set that has none: stratified, chosen by the hash of the content."""

from collections import defaultdict
from collections.abc import Sequence


def validation(labels: Sequence[int], sha256: Sequence[str], fraction: float) -> set[int]:
    """Places of the images that become val.

    In each class the round(n * fraction) smallest hashes, at least 1 where the class has 2 or more, and never all.
    Equal content is never on both sides, also not across classes: where the border would part it, it stays in train.
    """
    by_class: dict[int, list[int]] = defaultdict(list)
    for place, label in enumerate(labels):
        by_class[label].append(place)
    chosen: set[int] = set()
    for places in by_class.values():
        places.sort(key=lambda place: sha256[place])
        count = min(max(1, round(len(places) * fraction)), len(places) - 1)
        chosen.update(places[:count])
    trained = {digest for place, digest in enumerate(sha256) if place not in chosen}
    return {place for place in chosen if sha256[place] not in trained}
