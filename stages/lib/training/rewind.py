"""Going back to the end of the last finished epoch when a run diverges, and on from there with a lower learning rate.

A function of the recipe alone: not of when checkpoints were written, nor of where a run was killed. So the end of every epoch is
kept in <run folder>/epochs, apart from the checkpoints the clock asks for, and a run that went back forgets those past that point.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

import torch

from stages.lib.core import ranks
from stages.lib.params.divergence import Divergence
from stages.lib.training.checkpoint import Keeper
from stages.lib.training.divergence import Diverged

if TYPE_CHECKING:
    from stages.lib.training.loop import Trained

log = logging.getLogger(__name__)


class Rewinder:
    """Of one run: where it may go back to, and how often it did."""

    def __init__(self, keeper: Keeper, cfg: Divergence, device: torch.device) -> None:
        """keeper: of the checkpoints the clock asks for."""
        self.keeper, self.cfg, self.device = keeper, cfg, device
        self.epochs = Keeper(keeper.folder.parent / "epochs", math.inf, 1) if cfg.rewinds else None

    def restore(self) -> dict[str, Any] | None:
        """The newest state: of two after the same step the one that went back more often. Every process gets it."""
        kept = [keeper.restore(self.device) for keeper in (self.keeper, self.epochs) if keeper]
        found = [state for state in kept if state is not None]
        return max(found, key=lambda state: (state["step"], len(state["rewinds"])), default=None)

    def factor(self, trained: Trained) -> float:
        """Of the plan's learning rate, as often as the run went back."""
        return float(self.cfg.lr_factor ** len(trained.rewinds))

    def keep(self, trained: Trained) -> None:
        """Remember where the run is now: before its first step, or at the end of an epoch."""
        if self.epochs:
            self.epochs.save(trained.step, trained.state())

    def back(self, trained: Trained, fault: Diverged) -> None:
        """Put the run back to the end of the last finished epoch. Raises Diverged if it went back often enough."""
        went = len(trained.rewinds)
        if went >= self.cfg.rewinds:
            times = f" It had gone back {went} time(s), after steps {trained.rewinds}." if went else ""
            raise Diverged(fault.step, fault.reason + times + self._kept(trained))
        assert self.epochs is not None
        rewinds = [*trained.rewinds, fault.step]
        state = self.epochs.restore(self.device)
        if state is None:
            raise Diverged(fault.step, f"{fault.reason} The end of the last epoch, to go back to, cannot be read.")
        if trained.settle:
            trained.settle()  # takes what the step that was not made has left
        trained.load(state)
        trained.rewinds = rewinds
        trained.restart()
        self.keep(trained)  # before anything is forgotten: whoever continues after a kill in between comes here again
        for path in self.keeper.all() if ranks.first() else ():
            if int(path.stem.removeprefix("step-")) >= trained.step:
                path.unlink()
        log.warning(
            "%s Going back to the end of step %d (rewind %d of %d); the learning rate is %.6g times the plan's from there on.",
            fault.reason,
            trained.step,
            len(rewinds),
            self.cfg.rewinds,
            self.factor(trained),
        )

    def _kept(self, trained: Trained) -> str:
        if trained.saved is None:
            return " No checkpoint had been written yet."
        return f" The checkpoint after step {trained.saved} is kept, and nothing since."
