"""A trial: a stage as it would run, ended after its first steps and without a result. `python -m stages.preflight` asks for one.

The limit is an environment variable: in `params.yaml` it would be part of a recipe, or of `system`, which never changes what comes
out. A trial ends as a refusal does, so that DVC records nothing of it and no launcher starts it again.
"""

import os

from stages.lib.core.outcome import Refusal

STEPS = "TUTELAGE_TRIAL_STEPS"


class TrialOver(Refusal):
    """Enough was seen. There is no result."""

    def __init__(self) -> None:
        super().__init__(
            f"${STEPS} ended this run after {limit()} steps, as a trial: its rates are in the run folder, and nothing was made. "
            "Unset it to train."
        )


def limit() -> int:
    """Steps of global batches after which this process ends; 0: no trial. Raises Refusal for what is no such number."""
    text = os.environ.get(STEPS, "0")
    if not text.isdecimal():
        raise Refusal(f"${STEPS} is {text!r}; it is a number of steps, for trials alone. Unset it to train.")
    return int(text)
