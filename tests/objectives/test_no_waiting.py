"""A step must not make the host wait for the device: no number is read back, nothing unpinned is carried over.

On a CPU nothing waits, so the operations themselves are watched: those that read a value or have a size that depends on values,
and tensors made from Python numbers after the first step, which on a GPU would be copies from unpinned memory.
"""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from stages.lib.data.batch import Batch
from stages.lib.data.erasing import Erasure
from stages.lib.data.mixing import Mix
from stages.lib.models import deit
from stages.lib.models.mae import MAE
from stages.lib.objectives.classify import Classify
from stages.lib.objectives.distill import Distill
from stages.lib.objectives.reconstruct import Reconstruct
from stages.lib.params.optimizer import Optimizer
from stages.lib.params.pretrain import Decoder
from stages.lib.params.vit import ViT
from stages.lib.training import divergence, optimizer
from stages.lib.training.divergence import Lagging
from stages.lib.training.ema import Ema
from stages.lib.training.loop import Trained, _step

WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "equal", "is_nonzero")
MADE = ("lift_fresh", "lift_fresh_copy")  # torch.tensor([...]): from the host's memory
VIT = ViT(patch_size=4, width=24, depth=2, heads=3)


class Watch(TorchDispatchMode):
    """Notes what would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in WAITS + MADE or (name == "index" and any(_mask(part) for part in args[1])):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


def _mask(part: Tensor | None) -> bool:
    return part is not None and part.dtype == torch.bool


def waits(
    objective: nn.Module, network: nn.Module, batch: Batch, clip_norm: float = 1.0, guard: type[Lagging] = Lagging
) -> list[str]:
    """What a second step does that would wait; constants may be carried over in the first.

    guard: what looks for numbers that are not finite; a GPU's unless it is to be seen waiting.
    """
    values = {"name": "adamw", "lr": 1e-3, "lr_per": 256, "weight_decay": 0.05, "decay_tokens": "all"}
    trained = Trained(objective, network, optimizer.build(Optimizer.model_validate(values), network, 2))
    trained.ema, trained.guard = Ema(network, 0.9), guard(torch.device("cpu"))
    trained.add(_step(trained, batch, 1e-3, clip_norm, "bf16"))
    with Watch() as watch:
        trained.add(_step(trained, batch, 1e-3, clip_norm, "bf16"))
    return watch.seen


@pytest.fixture
def batch(monkeypatch: pytest.MonkeyPatch) -> Batch:
    """Eight images with everything random a batch can carry; normalised as on a GPU, not by the CPU's table."""
    monkeypatch.setattr("stages.lib.data.normalise._library", lambda: None)
    torch.manual_seed(0)
    erasures = ((1, Erasure(1, 2, np.ones((3, 2, 2), np.float32))),)
    mixes = (Mix(0.3, None), Mix(0.5, (0, 2, 0, 2)))
    images, labels = torch.randint(256, (8, 3, 8, 8), dtype=torch.uint8), torch.arange(8) % 5
    return Batch(images, labels, torch.arange(8), torch.rand(8, 4), torch.rand(8, 2, 2), erasures, mixes)


def test_step__of_every_objective_waits_for_nothing(batch: Batch) -> None:
    mae = MAE(8, VIT, Decoder(width=16, depth=1, heads=2), 0.5)
    assert waits(Reconstruct(mae, True), mae, batch) == []
    plain = deit.create(VIT, 8, 5, False, 0.1)
    assert waits(Classify(plain, deit.mean_logits, 5, 0.1), plain, batch) == []
    student, teacher = deit.create(VIT, 8, 5, True, 0.1), deit.create(VIT, 8, 5, False)
    assert waits(Distill(student, teacher, "hard", classes=5, smoothing=0.1), student, batch) == []


def test_step__of_a_cpu_asks_at_once_and_is_seen(batch: Batch) -> None:
    """Negative control: the other way to look for numbers that are not finite would wait."""
    plain = deit.create(VIT, 8, 5, False, 0.1)

    class AskingAtOnce(Lagging):
        look = divergence.AtOnce.look  # type: ignore[assignment]

    assert waits(Classify(plain, deit.mean_logits, 5, 0.1), plain, batch, guard=AskingAtOnce) == ["_local_scalar_dense"]


@pytest.mark.parametrize("how", ["item", "mask", "list"])
def test_step__that_waits_is_seen(batch: Batch, how: str) -> None:
    """Negative controls."""
    model = deit.create(VIT, 8, 5, False, 0.1)

    class Waiting(Classify):
        def forward(self, batch: Batch) -> dict[str, Tensor]:
            losses = super().forward(batch)
            if how == "item":
                losses["loss"].item()
            elif how == "mask":
                batch.labels[batch.labels > 2]
            else:
                torch.tensor([1.0, 2.0])
            return losses

    assert waits(Waiting(model, deit.mean_logits, 5, 0.1), model, batch)
