"""Exponential moving average of a model (DeiT Table 8: decay 0.99996 a step)."""

import torch
from torch import Tensor, nn


class Ema:
    """Starts as a copy; averages every entry of the state dict, buffers included, in at least float32.

    Entries that are no floats, such as batch norm's count of batches, are copied.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """decay: share of the old average that stays at each update."""
        self.decay = decay
        self.average = {name: _wide(value).clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, bad: Tensor | None = None) -> None:
        """average = decay * average + (1 - decay) * model; where `bad` (a scalar on the model's device) is not 0, nothing."""
        if bad is not None:
            self._update_unless(bad != 0, model)
            return
        for name, value in model.state_dict().items():
            average = self.average[name]
            if average.is_floating_point():
                average.mul_(self.decay).add_(value.to(average.dtype), alpha=1.0 - self.decay)
            else:
                average.copy_(value)

    def _update_unless(self, bad: Tensor, model: nn.Module) -> None:
        """The same without asking the device, whose answer the host would have to wait for."""
        old = torch.where(bad, 1.0, self.decay)
        new = torch.where(bad, 0.0, 1.0 - self.decay)
        for name, value in model.state_dict().items():
            average = self.average[name]
            if average.is_floating_point():  # a model whose step was not made is finite: 0 times it is 0
                average.mul_(old).addcmul_(value.to(average.dtype), new)
            else:
                average.copy_(torch.where(bad, average, value))

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by name; a model of the same kind loads them."""
        return self.average

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from saved averages. Raises ValueError if the names differ."""
        if state.keys() != self.average.keys():
            raise ValueError(
                f"these averages are of another model; names that differ: {sorted(state.keys() ^ self.average.keys())}"
            )
        for name, value in state.items():
            self.average[name].copy_(value)


def _wide(value: Tensor) -> Tensor:
    """Half precision would lose an update of a few parts in 100,000."""
    return (
        value.detach().to(torch.promote_types(value.dtype, torch.float32))
        if value.is_floating_point()
        else value.detach()
    )
