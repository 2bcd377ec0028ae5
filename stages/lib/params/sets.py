"""`sets`: the part each source plays."""

from stages.lib.params.frozen import Frozen
from stages.lib.params.sources import SetName


class Sets(Frozen):
    """Names out of `sources`."""

    main: SetName
    """Teacher, pretraining, distillation and fine-tuning use this set."""
    transfer: list[SetName]
    """The student is transferred to each of these; may be empty."""
