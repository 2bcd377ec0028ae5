"""`report`: the page."""

from typing import Annotated

from pydantic import Field, StringConstraints

from stages.lib.params.frozen import Frozen


class Report(Frozen):
    """Wording only; no number is chosen here."""

    title: Annotated[str, StringConstraints(min_length=1, max_length=120)]
    worst_classes: Annotated[int, Field(ge=0)]
    """Classes listed in each model's per-class table, worst first."""
