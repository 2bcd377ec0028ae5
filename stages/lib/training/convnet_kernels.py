"""How a convnet's weights and images lie in memory: as torch makes them, or channels last. Measured on the network itself."""

from collections.abc import Callable
from typing import Literal, cast

import torch
from torch import nn

from stages.lib.core.runs import Run
from stages.lib.models.precision import autocast
from stages.lib.params.precision import Precision
from stages.lib.params.training import Training
from stages.lib.training import kernels
from stages.lib.training.fastest import preferred, shortest
from stages.lib.training.kernels import Choice

Layout = Literal["contiguous", "channels-last"]
LAYOUTS: tuple[Layout, ...] = ("contiguous", "channels-last")
IMAGES = {"cpu": 2, "cuda": 32}


def prepare(run: Run, network: nn.Module, cfg: Training) -> None:
    """Lay the network as `run` began, or by what is fastest here. Raises Refusal where compile finds no compiler."""
    weights = list(network.parameters())
    device = weights[0].device
    if cfg.compile:
        kernels.refuse_without_compiler(device)
    sizes = [device.type, cfg.precision, cfg.views.image_size, [list(weight.shape) for weight in weights]]
    measure = lambda: Choice(layout=layout(network, cfg.precision, cfg.views.image_size))  # noqa: E731
    lay(network, cast(Layout, kernels.chosen(run, {"layout": LAYOUTS}, sizes, measure)["layout"]))


def lay(network: nn.Module, layout: Layout) -> None:
    """Weights in this order; convolutions follow it with what they compute. Shapes and the state dict stay."""
    network.to(memory_format=torch.channels_last if layout == "channels-last" else torch.contiguous_format)  # type: ignore[call-overload]


def layout(network: nn.Module, precision: Precision, image_size: int) -> Layout:
    """The faster order for this network, forward and backward over a few images; its statistics stay as they are."""
    training, device = network.training, next(network.parameters()).device
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    shape = IMAGES[device.type], 3, image_size, image_size
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
    lying: list[Layout] = []

    def step() -> object:
        with autocast(device, precision):
            seen = network(images)
        return torch.autograd.grad(seen.float().sum(), weights)

    def steps_of(kind: Layout) -> Callable[[], object]:
        def timed() -> object:
            if lying != [kind]:  # only in the first of a row of steps, which therefore does not count
                lay(network, kind)
                lying[:] = [kind]
            return step()

        return timed

    network.eval()
    try:
        return preferred(shortest({kind: steps_of(kind) for kind in LAYOUTS}, device, turns=False))
    finally:
        lay(network, "contiguous")
        network.train(training)
