"""How a transformer's blocks run: attention fused or plain, products by MKL or oneDNN, compiled or not, activations kept or not.

On CPUs fused attention is several times slower in bfloat16 than the plain one, and on AMD's MKL takes twice oneDNN's time for
products in single precision. Both are measured on the model's own blocks, forward and backward. What does not give the same bits
again is no choice: a resumed run must equal an undisturbed one.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from stages.lib.core.outcome import Refusal
from stages.lib.core.runs import Run
from stages.lib.models import blocks
from stages.lib.models.blocks import Blocks
from stages.lib.models.precision import autocast
from stages.lib.params.precision import Precision
from stages.lib.params.system import System
from stages.lib.training import kernels
from stages.lib.training.fastest import preferred, shortest
from stages.lib.training.kernels import Choice, Matmul

if TYPE_CHECKING:  # whoever trains one kind of block need not know the other's
    from stages.lib.params.pretrain import Pretrain
    from stages.lib.params.training import Training

ELEMENTS = 1 << 17
"""Values of a measured batch on a CPU, where more only takes longer; a GPU gets a batch that fills it."""
MOST_IMAGES = 64
AS_EXACT = 4.0
"""A single-precision product may be this many times as far from double precision as the default's."""
Attention = Literal["fused", "plain"]
ATTENTION: tuple[Attention, ...] = ("fused", "plain")


@dataclass(frozen=True)
class Part:
    """Transformer blocks of one size, and how many tokens they see."""

    blocks: Blocks
    tokens: int

    @property
    def first(self) -> Block:
        """Stands for all."""
        return cast(Block, self.blocks[0])

    @property
    def into(self) -> nn.Linear:
        """The first layer of its MLP."""
        return cast(nn.Linear, self.first.mlp.fc1)

    @property
    def sizes(self) -> list[int]:
        """What a block's speed depends on."""
        return [self.tokens, self.into.in_features, cast(Any, self.first.attn).num_heads, len(self.blocks)]


def prepare(run: Run, parts: Mapping[str, Part], cfg: "Training | Pretrain", batch_size: int, system: System) -> None:
    """Make these blocks run as `run` began, or by what is fastest here; compile them; keep activations or not.

    Raises Refusal where they are to be compiled and there is no compiler, or where the products of its start are not as exact here.
    """
    device = next(iter(parts.values())).into.weight.device
    if cfg.compile:
        kernels.refuse_without_compiler(device)
    allowed: dict[str, tuple[str, ...]] = {f"attention.{name}": repeatable(device, cfg.precision) for name in parts}
    allowed["matmul"] = ("default", "onednn")
    sizes = [device.type, cfg.precision, batch_size, {name: part.sizes for name, part in parts.items()}]
    choice = kernels.chosen(run, allowed, sizes, lambda: measured(parts, cfg.precision, batch_size))
    if choice["matmul"] not in matmuls(next(iter(parts.values())).into, cfg.precision):  # begun on another processor
        raise Refusal(
            f"this run began with products by {choice['matmul']} ({run.folder / 'kernels.json'}), which this processor would "
            f"compute less exactly, if at all. Go on where it began, or remove {run.folder} to start this run over on this machine."
        )
    use(parts, choice)
    for part in parts.values():
        if cfg.compile:
            blocks.compiled(part.blocks)
        if system.checkpoint_activations:
            blocks.checkpointed(part.blocks)


def prepare_classifier(run: Run, model: VisionTransformer, cfg: "Training", system: System) -> None:
    """`prepare` for a model with a position for every token, trained on cfg.views."""
    assert model.pos_embed is not None
    parts = {"blocks": Part(cast(Blocks, model.blocks), model.pos_embed.shape[1])}
    prepare(run, parts, cfg, cfg.views.batch_size, system)


def repeatable(device: torch.device, precision: Precision) -> tuple[Attention, ...]:
    """The ways of attention that give the same gradients, bit for bit, each time.

    Fused, a GPU adds up those of single precision in no fixed order (seen on an H200 at 197 tokens, by torch's memory-efficient
    kernel, which alone takes single precision; asked for repeatable kernels with a warning only, it still does). In bfloat16 its
    kernels repeated theirs.
    """
    return ("plain",) if device.type == "cuda" and precision == "fp32" else ATTENTION


def use(parts: Mapping[str, Part], choice: Choice) -> None:
    """Set the blocks, and single-precision products of this process, up for a choice."""
    for name, part in parts.items():
        for block in part.blocks:
            attend(cast(Block, block), cast(Attention, choice[f"attention.{name}"]))
    kernels.multiply(cast(Matmul, choice["matmul"]))


def measured(parts: Mapping[str, Part], precision: Precision, batch_size: int) -> Choice:
    """The fastest choice here and now. Draws no number from torch's global generator, leaves no gradient behind.

    Attention for each part and products for all, since one depends on the other.
    """
    into = next(iter(parts.values())).into
    ways, first = matmuls(into, precision), repeatable(into.weight.device, precision)[0]
    seconds = {name: seconds_of(part, ways, precision, batch_size) for name, part in parts.items()}
    totals, choices = dict[Matmul, float](), dict[Matmul, Choice]()
    for matmul in ways:
        choices[matmul], totals[matmul] = Choice(matmul=matmul), 0.0
        for name, part in parts.items():
            kinds = {kind: spent for (way, kind), spent in seconds[name].items() if way == matmul}
            kinds = kinds or {first: min(seconds[name].values())}  # too little to be measured: nothing changes
            kind = preferred(kinds)
            choices[matmul][f"attention.{name}"] = kind
            totals[matmul] += kinds[kind] * len(part.blocks)
    return choices[preferred(totals)]


def seconds_of(
    part: Part, ways: tuple[Matmul, ...], precision: Precision, batch_size: int
) -> dict[tuple[Matmul, Attention], float]:
    """What a block takes for a few images, forward and backward, in every way."""
    before, math = cast(Any, part.first.attn).fused_attn, torch.get_float32_matmul_precision()
    device, width = part.into.weight.device, part.into.in_features
    most = MOST_IMAGES if device.type == "cuda" else max(1, ELEMENTS // (part.tokens * width))
    shape = min(batch_size, most, MOST_IMAGES), part.tokens, width
    tokens = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device).requires_grad_()
    kinds = repeatable(device, precision)
    try:
        steps = {(way, kind): _step(part.first, tokens, way, kind, precision) for way in ways for kind in kinds}
        return shortest(steps, device)
    finally:
        attend(part.first, "fused" if before else "plain")
        torch.set_float32_matmul_precision(math)


def _step(block: Block, tokens: Tensor, matmul: Matmul, kind: Attention, precision: Precision) -> Callable[[], object]:
    weights = [weight for weight in block.parameters() if weight.requires_grad]

    def step() -> object:
        kernels.multiply(matmul)
        attend(block, kind)
        with autocast(tokens.device, precision):
            seen = blocks.residual(block, tokens, None, None)
        return torch.autograd.grad(seen, [tokens, *weights], torch.ones_like(seen))

    return step


def attend(block: Block, kind: Attention) -> None:
    """timm's switch."""
    cast(Any, block.attn).fused_attn = kind == "fused"


def matmuls(layer: nn.Linear, precision: Precision) -> tuple[Matmul, ...]:
    """What may compute single-precision products: oneDNN only on a CPU, and where it is as exact (with AMX it is not)."""
    weight = layer.weight.detach()
    if weight.device.type != "cpu" or precision != "fp32" or not torch.backends.mkldnn.is_available():
        return ("default",)
    rows = torch.randn(256, layer.in_features, generator=torch.Generator().manual_seed(0))
    exact = rows.double() @ weight.double().T
    errors = dict[Matmul, float]()
    both: tuple[Matmul, ...] = ("default", "onednn")
    for matmul in both:
        with multiplying(matmul):
            errors[matmul] = float((nn.functional.linear(rows, weight) - exact).abs().max())
    return both if errors["onednn"] <= AS_EXACT * errors["default"] else ("default",)


@contextlib.contextmanager
def multiplying(matmul: Matmul) -> Iterator[None]:
    """Within it, single-precision products are computed so."""
    before = torch.get_float32_matmul_precision()
    kernels.multiply(matmul)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
