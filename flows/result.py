"""How a stage ended, and how Prefect's UI says it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

Kind = Literal["UpToDate", "Cached", "Ran", "Refused", "Failed", "Stopped"]
DONE: tuple[Kind, ...] = ("UpToDate", "Cached", "Ran")
AGAIN: tuple[Kind, ...] = ("Failed",)  # infrastructure; what a person must put right is Refused


@dataclass(frozen=True)
class Result:
    """What came out of a stage. UpToDate: DVC found nothing to do; Cached: its run cache had the outs; Ran: it ran.

    Refused: a person has to put something right (a gate, a wrong parameter, a diverged loss); trying again would end the same way.
    Failed: the infrastructure (a kill, a full disk, a lost connection); trying again may do better. Stopped: somebody asked.
    """

    kind: Kind
    reason: str
    run_folder: Path | None = None
    """Where a training keeps checkpoints and live numbers."""

    @property
    def done(self) -> bool:
        """Whether stages after it may run."""
        return self.kind in DONE

    def state(self) -> "State[None]":
        """A state of Prefect's with our name for it."""
        from prefect import states

        if self.done:
            return states.Completed(name=self.kind, message=self.reason)
        if self.kind == "Stopped":
            return states.Cancelled(message=self.reason)
        return states.Failed(name=self.kind, message=self.reason)

    @classmethod
    def of(cls, state: "State[object]") -> Self:
        """The result that another process gave as its state; a crash is an infrastructure failure."""
        kinds: dict[str, Kind] = {kind: kind for kind in (*DONE, "Refused", "Failed")}
        if state.name in kinds:
            return cls(kinds[state.name], state.message or "")
        if state.is_cancelled() or state.is_cancelling():
            return cls("Stopped", state.message or "cancelled")
        return cls("Failed", f"{state.name}: {state.message or 'no reason is known'}")
