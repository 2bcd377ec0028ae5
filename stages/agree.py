"""On how many images do teacher, heads and labels disagree (Touvron et al. 2021, Table 4)?

in    data/predictions/{teacher,student,finetuned}.parquet    of the same images, with the same labels
out   data/metrics/agreement.json                             percent of images, for every pair; torch-free
run   dvc repro -s agree
"""

import itertools
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from stages.lib.core import files, outcome
from stages.lib.core.outcome import Refusal
from stages.lib.data import chance, predictions, stamp
from stages.lib.data.predictions import Predictions

log = logging.getLogger(__name__)
OUT = Path("data/metrics/agreement.json")
TEACHER, STUDENTS = "teacher", ("student", "finetuned")
HEADS = ("class", "dist", "fused_logits")
DECIMALS = 4
ODD = 0.01
"""Below this p, heads that stand the wrong way round are no chance."""


def main() -> None:
    """Compare, and write. Raises Refusal where the predictions are of other images, labels or sets."""
    found = {name: predictions.read(Path(f"data/predictions/{name}.parquet")) for name in (TEACHER, *STUDENTS)}
    teacher = found[TEACHER]
    for name in STUDENTS:
        must_belong_together(teacher, found[name])
    values: dict[str, Any] = {
        "set": teacher.set_name,
        "split": teacher.split,
        "images": len(teacher.keys),
        "stamps": {name: one.stamp for name, one in found.items()},
        **{name: disagreement(teacher, found[name]) for name in STUDENTS},
    }
    with files.replace(OUT) as temporary:
        temporary.write_text(json.dumps(values, indent=1) + "\n")
    for name in STUDENTS:
        shares = ", ".join(
            f"{head} {values[name][f'teacher_{head}']:.2f} %" for head in HEADS if head in found[name].heads
        )
        log.info("images on which the teacher and the %s disagree: %s", name, shares)
        if words := heads_swapped(teacher, found[name]):
            log.warning("%s: %s", name, words)


def must_belong_together(teacher: Predictions, student: Predictions) -> None:
    """Raise Refusal unless both were measured on the same images of the same index."""
    predictions.must_share(teacher, student)
    ours, theirs = ([line for line in one.stamp if line.startswith("index ")] for one in (teacher, student))
    if apart := stamp.difference(ours, theirs):
        raise Refusal(
            f"{teacher.path} and {student.path} are not of one run: one of them is stale, as they were measured "
            f"with different {apart}. "
            "`dvc repro evaluate` measures what is there now."
        )


def answers(teacher: Predictions, student: Predictions) -> dict[str, np.ndarray]:
    """Who says what, i32[N] each: the teacher, the heads that the student has, and the labels."""
    own = {head: student.heads[head] for head in HEADS if head in student.heads}
    return {TEACHER: teacher.heads[predictions.OWN], **own, "label": student.labels}


def disagreement(teacher: Predictions, student: Predictions) -> dict[str, float]:
    """<a>_<b>: percent of images on which a and b name different classes."""
    pairs = itertools.combinations(answers(teacher, student).items(), 2)
    return {f"{a}_{b}": round(100 * float((first != second).mean()), DECIMALS) for (a, first), (b, second) in pairs}


def heads_swapped(teacher: Predictions, student: Predictions) -> str:
    """What is odd where the class head is nearer to the teacher than the head that learnt from it, by more than chance; else "".

    DeiT section 5.2: the distillation head is the one closer to the convnet.
    """
    if "dist" not in student.heads:
        return ""
    said = teacher.heads[predictions.OWN]
    near, far = student.heads["class"] == said, student.heads["dist"] == said
    one, other = int((near & ~far).sum()), int((far & ~near).sum())
    p = chance.sign_test(one, other)
    if one <= other or p >= ODD:
        return ""
    return (
        f"on {one} images the class head alone agrees with the teacher, on {other} the distillation head alone (p = {p:.2g}). "
        "The distillation head should be the nearer one: were heads, or their tokens, swapped?"
    )


if __name__ == "__main__":
    outcome.run("agree", main)
