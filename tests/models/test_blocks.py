"""How blocks run changes nothing but speed and memory: kept or computed again, compiled or not."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from stages.lib.models import blocks, deit
from stages.lib.models.precision import autocast
from stages.lib.params.vit import ViT

VIT = ViT(patch_size=4, width=24, depth=3, heads=3)


def student(rate: float = 0.5) -> nn.Module:
    torch.manual_seed(0)
    return deit.create(VIT, 8, 5, True, rate)


def gradients(model: nn.Module, precision: str = "fp32") -> list[Tensor]:
    """Logits and every gradient of a batch of four, with branches dropped."""
    draw = torch.Generator().manual_seed(1)
    images, keep = torch.randn(4, 3, 8, 8, generator=draw), torch.rand(4, 3, 2, generator=draw)
    model.zero_grad()
    with autocast(torch.device("cpu"), precision):  # type: ignore[arg-type]
        logits = deit.mean_logits(model, images, keep)  # type: ignore[arg-type]
    logits.square().sum().backward()
    return [logits.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def test_drop_factors__by_definition() -> None:
    keep = torch.tensor([[[0.0, 0.9], [0.2, 0.3]], [[0.5, 0.5], [0.25, 0.1]]])
    factors = blocks.drop_factors(keep, [0.0, 0.25], torch.float64)
    assert factors.shape == (2, 2, 2, 1, 1) and factors.dtype == torch.float64
    assert factors[0].flatten().tolist() == [1.0] * 4  # rate 0 drops nothing, also where the number is 0
    assert factors[1, 0].flatten().tolist() == [0.0, 4 / 3]  # 0.2 is below 0.25, 0.25 is not
    assert factors[1, 1].flatten().tolist() == [4 / 3, 0.0]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_checkpointed__the_same_bits_with_fewer_tensors_kept(precision: str) -> None:
    kept, again = student(), student()
    blocks.checkpointed(again.blocks)
    for ours, theirs in zip(gradients(again, precision), gradients(kept, precision), strict=True):
        assert torch.equal(ours, theirs)

    def saved(model: nn.Module) -> int:
        values = 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal values
            values += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            deit.mean_logits(model, torch.zeros(4, 3, 8, 8))  # type: ignore[arg-type]
        return values

    assert saved(again) < saved(kept) / 2


def test_how__stands_in_no_state_dict_and_counts_with_gradients_only() -> None:
    model, calls = student(), []

    def step(block, tokens, attention, mlp):  # type: ignore[no-untyped-def]
        calls.append(block)
        return blocks.residual(block, tokens, attention, mlp)

    names = list(model.state_dict())
    model.blocks.how = blocks.How(step=step)  # type: ignore[assignment]
    assert list(model.state_dict()) == names
    with torch.inference_mode():
        deit.mean_logits(model, torch.zeros(1, 3, 8, 8))  # type: ignore[arg-type]
    assert not calls
    deit.mean_logits(model, torch.zeros(1, 3, 8, 8))  # type: ignore[arg-type]
    assert calls == list(model.blocks)


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_compiler")
def test_compiled__one_graph_for_all_blocks_and_rates() -> None:
    """Close to eager, and compiled once: not for every block, rate or batch of other numbers."""
    from torch._dynamo.utils import counters

    counters.clear()
    eager, model = student(), student()
    blocks.compiled(model.blocks)
    for ours, theirs in zip(gradients(model), gradients(eager), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4)
    for _ in range(2):
        gradients(model)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    deit.mean_logits(model, torch.zeros(3, 3, 8, 8)).sum().backward()  # control: another size is another graph
    assert counters["stats"]["unique_graphs"] == 2
