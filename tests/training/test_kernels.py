"""Kernels: the default stays unless clearly beaten; a run keeps its choice; a machine remembers; nothing of it can break a run."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from stages.lib.core.outcome import Refusal
from stages.lib.core.runs import Run
from stages.lib.models import deit, teacher
from stages.lib.params.teacher import RegNetSizes
from stages.lib.params.vit import ViT
from stages.lib.training import convnet_kernels, fastest, kernel_memory, kernels, transformer_kernels
from stages.lib.training.transformer_kernels import Part
from tests.training.test_device import system

CPU = torch.device("cpu")
WAYS = {"matmul": ("default", "onednn")}


@pytest.fixture(autouse=True)
def own_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    place = tmp_path / "memory" / "kernels.json"
    monkeypatch.setattr(kernel_memory, "place", lambda: place)
    before = torch.get_float32_matmul_precision()
    yield place
    torch.set_float32_matmul_precision(before)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "run").mkdir()
    return Run(tmp_path / "run", "x")


def fresh(tmp_path: Path, name: str) -> Run:
    (tmp_path / name).mkdir()
    return Run(tmp_path / name, name)


def times(monkeypatch: pytest.MonkeyPatch, **seconds: float) -> dict[str, Callable[[], object]]:
    """Steps that take so long, on a clock of their own."""
    monkeypatch.setattr(fastest, "timed", lambda step, _: seconds[step()])
    return {name: (lambda name=name: name) for name in seconds}


@pytest.mark.parametrize(("other", "wins"), [(0.5, "b"), (0.9, "a"), (0.88, "a"), (0.86, "b"), (2.0, "a")])
def test_fastest__the_first_unless_another_is_clearly_faster(
    monkeypatch: pytest.MonkeyPatch, other: float, wins: str
) -> None:
    steps = times(monkeypatch, a=1.0, b=other)
    assert fastest.preferred(fastest.shortest(steps, CPU)) == wins


def test_fastest__does_not_measure_what_takes_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = times(monkeypatch, a=1e-4, b=1e-9)
    assert fastest.shortest(steps, CPU) == {"a": 1e-4}


def test_chosen__measured_once_then_recorded_and_remembered(tmp_path: Path, own_memory: Path) -> None:
    """A resumed run takes its record, another run of the same sizes the machine's memory, other sizes measure."""
    calls: list[int] = []

    def measure(found: str = "onednn") -> dict[str, str]:
        calls.append(1)
        return {"matmul": found}

    first = fresh(tmp_path, "a")
    assert kernels.chosen(first, WAYS, "sizes", measure) == {"matmul": "onednn"} and len(calls) == 1
    assert kernels.chosen(fresh(tmp_path, "b"), WAYS, "sizes", lambda: measure("default")) == {"matmul": "onednn"}
    own_memory.unlink()
    assert kernels.chosen(first, WAYS, "sizes", lambda: measure("default")) == {"matmul": "onednn"}
    assert len(calls) == 1
    assert kernels.chosen(fresh(tmp_path, "c"), WAYS, "others", lambda: measure("default")) == {"matmul": "default"}
    assert len(calls) == 2 and json.loads((tmp_path / "c" / "kernels.json").read_text()) == {"matmul": "default"}


@pytest.mark.parametrize("record", ['{"matmul": "abacus"}', '{"layout": "contiguous"}', '{"matmul": "one'])
def test_chosen__a_record_of_the_run_that_cannot_be_kept_is_refused(run: Run, record: str) -> None:
    (run.folder / "kernels.json").write_text(record)
    with pytest.raises(Refusal, match=r"kernels\.json.*remove it to choose again"):
        kernels.chosen(run, WAYS, "sizes", lambda: {"matmul": "default"})
    (run.folder / "kernels.json").write_text('{"matmul": "onednn"}')  # control: one that can is kept
    assert kernels.chosen(run, WAYS, "sizes", lambda: {"matmul": "default"}) == {"matmul": "onednn"}


@pytest.mark.parametrize("content", ["", "[]", "{", '{"NAME": {"matmul": "abacus"}}', '{"NAME": 3}', '{"NAME": {}}'])
def test_chosen__a_damaged_memory_is_measured_over(run: Run, own_memory: Path, content: str) -> None:
    own_memory.parent.mkdir()
    own_memory.write_text(content.replace("NAME", kernels.signature("sizes")))
    assert kernels.chosen(run, WAYS, "sizes", lambda: {"matmul": "onednn"}) == {"matmul": "onednn"}


def test_chosen__without_a_place_to_remember_the_run_goes_on(run: Run, own_memory: Path) -> None:
    own_memory.parent.write_text("a file where the folder should be")
    assert kernels.chosen(run, WAYS, "sizes", lambda: {"matmul": "onednn"}) == {"matmul": "onednn"}


def test_signature__knows_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    one = kernels.signature("sizes")
    assert one == kernels.signature("sizes") != kernels.signature("others")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    assert one != kernels.signature("sizes")


def test_refusal__without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels.refuse_without_compiler(CPU)  # this machine has one, or the slow tests of compiling could not run
    monkeypatch.setitem(os.environ, "CXX", "no-such-compiler")
    with pytest.raises(Refusal, match=r"no-such-compiler is not here.*\$CXX, or set compile to false"):
        kernels.refuse_without_compiler(CPU)


def part(depth: int = 2) -> Part:
    torch.manual_seed(0)
    model = deit.create(ViT(patch_size=4, width=24, depth=depth, heads=3), 8, 5, False)
    return Part(model.blocks, 5)  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_measured__leaves_blocks_random_numbers_and_products_as_they_were(precision: str) -> None:
    some, random = part(), torch.get_rng_state()
    weights = [weight.clone() for weight in some.blocks.parameters()]
    found = transformer_kernels.measured({"blocks": some}, precision, 8)  # type: ignore[arg-type]
    assert found.keys() == {"matmul", "attention.blocks"}
    assert precision == "fp32" or found["matmul"] == "default"
    assert torch.equal(random, torch.get_rng_state()) and torch.get_float32_matmul_precision() == "highest"
    assert all(torch.equal(a, b) for a, b in zip(weights, some.blocks.parameters(), strict=True))
    assert all(weight.grad is None for weight in some.blocks.parameters())


@pytest.mark.parametrize(
    ("device", "precision", "ways"),
    [("cuda", "fp32", ("plain",))] + [(*pair, ("fused", "plain")) for pair in (("cuda", "bf16"), ("cpu", "fp32"), ("cpu", "bf16"))],
)  # fmt: skip
def test_repeatable__single_precision_on_a_gpu_is_never_fused(
    device: str, precision: Any, ways: tuple[str, ...]
) -> None:
    """Its gradients differed from one backward pass to the next on an H200."""
    assert transformer_kernels.repeatable(torch.device(device), precision) == ways


@pytest.mark.parametrize("ways", [("plain",), ("fused", "plain")])
def test_prepare__takes_no_way_that_is_not_repeatable(
    run: Run, monkeypatch: pytest.MonkeyPatch, ways: tuple[str, ...]
) -> None:
    """Neither measured nor taken from the machine's memory. Negative control: what repeats is taken from there."""
    some, tried = part(), set[str]()
    sizes = ["cpu", "fp32", 8, {"blocks": some.sizes}]
    kernel_memory.remember(kernels.signature(sizes), {"attention.blocks": "fused", "matmul": "default"})
    step = transformer_kernels._step
    monkeypatch.setattr(transformer_kernels, "repeatable", lambda *_: ways)
    monkeypatch.setattr(transformer_kernels, "_step", lambda *args: tried.add(args[3]) or step(*args))
    cfg, system = SimpleNamespace(precision="fp32", compile=False), SimpleNamespace(checkpoint_activations=False)
    transformer_kernels.prepare(run, {"blocks": some}, cfg, 8, system)  # type: ignore[arg-type]
    fused = "fused" in ways
    assert [block.attn.fused_attn for block in some.blocks] == [fused, fused]
    assert tried == (set() if fused else {"plain"})


def test_use__sets_every_block_and_this_process() -> None:
    some = part()
    transformer_kernels.use({"blocks": some}, {"attention.blocks": "plain", "matmul": "onednn"})
    assert [block.attn.fused_attn for block in some.blocks] == [False, False]
    assert torch.get_float32_matmul_precision() == "medium"
    transformer_kernels.use({"blocks": some}, {"attention.blocks": "fused", "matmul": "default"})
    assert [block.attn.fused_attn for block in some.blocks] == [True, True]
    assert torch.get_float32_matmul_precision() == "highest"


def test_matmuls__onednn_only_where_it_is_as_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that would compute in bfloat16 keeps the default; so do GPUs and bf16, which have nothing to choose."""
    layer = part().into
    assert transformer_kernels.matmuls(layer, "bf16") == ("default",)
    right = torch.nn.functional.linear

    def coarse(rows, weight):  # type: ignore[no-untyped-def]
        if torch.get_float32_matmul_precision() == "medium":
            return right(rows.bfloat16(), weight.bfloat16()).float()
        return right(rows, weight)

    monkeypatch.setattr(torch.nn.functional, "linear", coarse)
    assert transformer_kernels.matmuls(layer, "fp32") == ("default",)


def test_prepare__products_of_a_start_that_would_be_coarser_here_are_refused(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Begun with oneDNN, going on where it would compute in bfloat16."""
    cfg, here = SimpleNamespace(compile=False, precision="fp32"), system("cpu", 1)
    run.recall("kernels", {"attention.blocks": "plain", "matmul": "onednn"})
    some = part()
    monkeypatch.setattr(transformer_kernels, "matmuls", lambda *_: ("default", "onednn"))
    transformer_kernels.prepare(run, {"blocks": some}, cfg, 8, here)  # type: ignore[arg-type]  # control
    assert torch.get_float32_matmul_precision() == "medium" and not some.blocks[0].attn.fused_attn
    monkeypatch.setattr(transformer_kernels, "matmuls", lambda *_: ("default",))
    with pytest.raises(Refusal, match=f"products by onednn .*less exactly.*remove {run.folder} to start"):
        transformer_kernels.prepare(run, {"blocks": some}, cfg, 8, here)  # type: ignore[arg-type]


def test_layout__leaves_statistics_mode_and_order_as_they_were() -> None:
    torch.manual_seed(0)
    sizes = RegNetSizes(depth=6, w0=24, wa=24.0, wm=2.0, group_size=8, stem_width=16)
    network = teacher.group_norm_statistics(teacher.create("regnety_002", sizes, 4), 4).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert convnet_kernels.layout(network, "fp32", 16) in convnet_kernels.LAYOUTS
    assert network.training and all(torch.equal(before[name], now) for name, now in network.state_dict().items())
    assert network.stem.conv.weight.is_contiguous()
    images = torch.randn(4, 3, 16, 16)
    expected = network(images)
    convnet_kernels.lay(network, "channels-last")
    assert not network.stem.conv.weight.is_contiguous()
    assert torch.allclose(network(images), expected, atol=1e-4)
