"""How a teacher answers and whether its answers are stored: all that stage `label` knows of the block `train`.

A file of its own, so that an edit of the student's schema asks the teacher nothing again.
"""

from typing import Annotated, Literal

from pydantic import Field, RootModel

from stages.lib.params.frozen import Frozen
from stages.lib.params.precision import Precision

MOST_CLASSES = 2**16 - 1
"""Stored labels are 16-bit numbers."""
TeacherFolder = Literal["teacher", "none"]
Normalisation = Literal["same", "own"]
"""same: a teacher that wants another mean and standard deviation than the student is refused. own: its pixels are mapped from
the student's to its own."""
Labels = Literal["live", "stored"]
"""live: the teacher runs beside the student. stored: stage `label` asks it once about every view of every epoch, and students
of any size, alpha, tau and kind read its answers (data/labels/stored)."""


class Labelling(Frozen):
    """How the teacher answers, live or stored."""

    precision: Precision
    """Of the teacher's forward pass, whatever the student's is."""
    top_k: Annotated[int, Field(ge=0, le=MOST_CLASSES)]
    """Classes of a view whose probabilities are stored; all others share the rest evenly. 0: the decision alone, 2 bytes a
    view, enough for hard distillation; soft needs more (4 bytes a class and 2 more a view). Live labels ignore it."""


class TrainLabels(RootModel[Labels]):
    """train.labels alone."""


class TrainTeacher(RootModel[TeacherFolder]):
    """train.teacher alone."""


class TrainTeacherNormalisation(RootModel[Normalisation]):
    """train.teacher_normalisation alone: `label` and fine-tuning ask the same teacher."""
