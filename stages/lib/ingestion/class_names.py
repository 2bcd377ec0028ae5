"""Names for classes that an official set leaves without distinct ones."""

from collections import Counter
from collections.abc import Sequence


def distinct(names: Sequence[str], tags: Sequence[str]) -> tuple[str, ...]:
    """names; where two classes share one (ImageNet has two cranes) the class's tag stands behind it: `crane (n02012849)`."""
    count = Counter(names)
    return tuple(name if count[name] == 1 else f"{name} ({tag})" for name, tag in zip(names, tags, strict=True))
