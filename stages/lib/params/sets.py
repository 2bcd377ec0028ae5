"""`sets`: the part each source plays."""

from pydantic import Field

from stages.lib.params.frozen import Frozen
from stages.lib.params.sources import SetName


class Sets(Frozen):
    """Names out of `sources`."""

    main: SetName
    """Teacher, pretraining, distillation and fine-tuning use this set."""
    transfer: list[SetName]
    """The student is transferred to each of these; may be empty."""
    robust: list[SetName] = Field(default_factory=list)
    """Student and fine-tuned model are measured on every image of each; classes are some of the main set's."""
    real: list[SetName] = Field(default_factory=list, max_length=1)
    """The main set where it is ImageNet and its ReaL labels lie at data/real/<set>.json; else empty."""
