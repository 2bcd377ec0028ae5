"""What a teacher's answer to every view of every epoch follows from: the same parts, the same answers (but for the last bits).

Order, crop, augmentation, erasing and mixing are functions of `train.views`, the index (or the part of it that trains), the epoch
and the position; the answer to such a view of the teacher, the normalisation it sees images with, and its number format.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from stages.lib.core import files
from stages.lib.params.labelling import Normalisation
from stages.lib.params.precision import Precision
from stages.lib.params.views import Views

FORMAT = 1
LATER = ("three_augment", "color_jitter")
Parts = dict[str, Any]


def parts_of(
    views: Views, index: Path, percent: int, teacher: Path, normalisation: Normalisation, precision: Precision
) -> Parts:
    """The parts by the names that params.yaml gives them; of the index's file and the teacher's folder the sha256.

    percent: of the index's training images. All of them go without saying: stores from before there was a choice stay valid.
    """
    return {
        "format": FORMAT,
        **({"data.subset": percent} if percent != 100 else {}),
        "train.views": said(views),
        "the index": files.sha256(index),
        "the teacher": files.sha256(teacher),
        "train.teacher_normalisation": normalisation,
        "train.labelling.precision": precision,
    }


def said(views: Views) -> Parts:
    """Its values; what later came to `views` only where it is not as it had always been."""
    values = views.model_dump(mode="json")
    return {key: value for key, value in values.items() if key not in LATER or value != Views.model_fields[key].default}


def digest(parts: Parts) -> str:
    """Hex sha256 of their canonical JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def differences(ours: Parts, theirs: Parts) -> list[str]:
    """`train.views.seed is 1, the store has 0` for every part that differs."""
    flat_ours, flat_theirs = flat(ours), flat(theirs)
    names = sorted(flat_ours.keys() | flat_theirs.keys())
    return [
        f"{name} is {shown(flat_ours.get(name))}, the store has {shown(flat_theirs.get(name))}"
        for name in names
        if flat_ours.get(name) != flat_theirs.get(name)
    ]


def flat(parts: Parts) -> Parts:
    """Nested blocks as dotted names."""
    found: Parts = {}
    for name, value in parts.items():
        found |= {f"{name}.{key}": inner for key, inner in value.items()} if isinstance(value, dict) else {name: value}
    return found


def shown(value: Any) -> str:
    """A value for people: of a sha256 its first digits."""
    text = "nothing" if value is None else str(value)
    return f"{text[:12]}..." if len(text) == 64 else text
