"""What a run does when it meets a loss or gradient that is not finite."""

from typing import Annotated

from pydantic import Field

from stages.lib.params.frozen import Frozen


class Divergence(Frozen):
    """Stop (rewinds 0), or go back to the end of the last finished epoch and on from there with a lower learning rate."""

    rewinds: Annotated[int, Field(ge=0)] = 0
    """Times the run may go back before it stops; 0: it stops at once, as the published runs did. The end of every epoch is
    checkpointed if above 0."""
    lr_factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """What the learning rate is multiplied by at each rewind, for the rest of the run."""
