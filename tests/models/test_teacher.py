"""RegNetY and batch statistics over groups of consecutive images."""

import copy

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from stages.lib.models import teacher
from stages.lib.params.teacher import RegNetSizes

SIZES = RegNetSizes(depth=6, w0=24, wa=24.0, wm=2.0, group_size=8, stem_width=16)


def network() -> nn.Module:
    """The embedded run's teacher, with every norm alive (timm starts a block's last norm at 0), in float64."""
    torch.manual_seed(0)
    model = teacher.create("regnety_002", SIZES, 7)
    with torch.no_grad():
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.weight.uniform_(0.5, 1.5)
    return model.double()


def images(count: int) -> torch.Tensor:
    """Groups of four that differ in brightness, so that statistics over more than a group differ too."""
    torch.manual_seed(2)
    return (
        torch.randn(count, 3, 16, 16, dtype=torch.float64)
        + torch.arange(count).div(4, rounding_mode="floor")[:, None, None, None]
    )


def test_create__sizes_are_what_timm_builds() -> None:
    """RegNetY-16GF has 83,590,140 parameters; ours has the schema's widths, and squeeze-excitation."""
    with torch.device("meta"):
        published = teacher.create("regnety_160", None, 1000)
        tiny = teacher.create("regnety_002", SIZES, 7)
    assert sum(p.numel() for p in published.parameters()) == 83_590_140
    assert tiny.stem.conv.out_channels == 16 and tiny.num_classes == 7
    blocks = [block for stage in (tiny.s1, tiny.s2, tiny.s3, tiny.s4) for block in stage.children()]
    assert [block.conv1.conv.out_channels for block in blocks] == SIZES.widths
    assert any(name.endswith("se.fc1.weight") for name in tiny.state_dict())


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(5), BatchNormAct2d(5), nn.BatchNorm2d(5, momentum=None)])
def test_grouped__one_batch_of_two_groups_is_two_batches_bit_for_bit(norm: nn.Module) -> None:
    """Output and running statistics; the ordinary norm over both groups fails the same comparison."""
    torch.manual_seed(1)
    x = torch.randn(8, 5, 3, 3) * torch.arange(1.0, 9.0)[:, None, None, None]
    twice, grouped, whole = (copy.deepcopy(norm) for _ in range(3))
    successive = torch.cat([twice(x[:4]), twice(x[4:])])
    model = teacher.group_norm_statistics(nn.Sequential(grouped), 4)
    assert torch.equal(model(x), successive) and not torch.allclose(whole(x), successive)
    teacher.settle(model, lambda rows: rows)
    one_by_one = teacher.group_norm_statistics(nn.Sequential(copy.deepcopy(norm)), 4)
    for part in x.split(4):
        one_by_one(part)
        teacher.settle(one_by_one, lambda rows: rows)
    for name, value in twice.state_dict().items():
        assert torch.equal(model[0].state_dict()[name], one_by_one[0].state_dict()[name]), name
        torch.testing.assert_close(
            model[0].state_dict()[name], value, rtol=3e-7, atol=0, msg=name
        )  # torch: one rounding less
    assert not torch.allclose(whole.running_var, twice.running_var)
    torch.testing.assert_close(model.eval()(x), twice.eval()(x), rtol=0, atol=1e-6)


def test_grouped__whole_teacher() -> None:
    """Training output, running statistics and gradients of one batch of two groups equal two batches'; evaluation too."""
    plain, x = network().train(), images(8)
    grouped = teacher.group_norm_statistics(copy.deepcopy(plain), 4)
    assert list(grouped.state_dict()) == list(plain.state_dict())
    ungrouped = copy.deepcopy(plain)(x)
    outputs = torch.cat([plain(x[:4]), plain(x[4:])])
    ours = grouped(x)
    torch.testing.assert_close(ours, outputs, rtol=0, atol=1e-12)
    assert (ungrouped - outputs).abs().max() > 1e-3
    outputs.square().sum().backward()
    ours.square().sum().backward()
    for (name, a), b in zip(plain.named_parameters(), grouped.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-9, atol=1e-9, msg=name)
    teacher.settle(grouped, lambda rows: rows)
    state = grouped.state_dict()
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(state[name], tensor, rtol=0, atol=1e-12, msg=name)
    assert state["stem.bn.num_batches_tracked"] == 2
    torch.testing.assert_close(grouped.eval()(x[:3]), plain.eval()(x[:3]), rtol=0, atol=1e-12)


def test_grouped__state_loads_into_plain_timm() -> None:
    """Saving needs no conversion back; parameters are the same objects, so an optimiser made before still works."""
    plain = network()
    weight = plain.stem.bn.weight
    grouped = teacher.group_norm_statistics(plain, 4)
    assert grouped.stem.bn.weight is weight and isinstance(grouped.stem.bn, teacher.GroupedBatchNorm)
    timm.create_model("regnety_002", num_classes=7, **teacher.model_args(SIZES)).load_state_dict(grouped.state_dict())


def test_grouped__an_evaluating_model_stays_one() -> None:
    """Converting must not switch single layers to training."""
    plain = network().eval()
    wanted = plain(images(3))
    torch.testing.assert_close(teacher.group_norm_statistics(plain, 4)(images(3)), wanted, rtol=0, atol=1e-12)


def test_grouped__a_batch_of_part_groups_is_refused() -> None:
    """Only in training; the message names both numbers."""
    grouped = teacher.group_norm_statistics(network(), 4)
    with pytest.raises(ValueError, match=r"6 images .* groups of 4"):
        grouped(images(6))
    assert grouped.eval()(images(6)).shape == (6, 7)


def test_grouped__other_norms_are_refused() -> None:
    """A 1-D batch norm has statistics too, but none of ours."""
    with pytest.raises(ValueError, match="BatchNorm1d"):
        teacher.group_norm_statistics(nn.Sequential(nn.BatchNorm1d(3)), 4)


@pytest.mark.slow
def test_compile_blocks__two_graphs_a_stage_at_most_and_the_same_numbers() -> None:
    """Grouped statistics included; without gradients nothing is compiled."""
    from torch._dynamo.utils import counters

    torch.compiler.reset()
    counters.clear()
    torch.manual_seed(0)
    eager = teacher.group_norm_statistics(teacher.create("regnety_002", SIZES, 7), 2)
    compiled = copy.deepcopy(eager)
    teacher.compile_blocks(compiled)
    images = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        compiled(images)
    assert not counters["stats"]
    assert list(compiled.state_dict()) == list(eager.state_dict())
    eager.load_state_dict(compiled.state_dict())
    assert torch.allclose(compiled(images), eager(images), atol=1e-4)
    assert 1 <= counters["stats"]["unique_graphs"] <= 8
    torch.compiler.reset()


@pytest.mark.parametrize("processes", [1, 2])
def test_settle__passes_and_processes_are_one_batch(processes: int) -> None:
    """Gradients, and running statistics in the order of positions, of one batch of four groups and of two passes or processes."""
    whole = teacher.group_norm_statistics(network().train(), 4)
    parts = [copy.deepcopy(whole) for _ in range(processes)]
    x, labels = images(16), torch.arange(16) % 7
    nn.functional.cross_entropy(whole(x), labels).backward()
    teacher.settle(whole, lambda rows: rows)
    for number, (some, wanted) in enumerate(zip(x.chunk(2), labels.chunk(2), strict=True)):
        (nn.functional.cross_entropy(parts[number % processes](some), wanted) / 2).backward()
    seen: list[torch.Tensor] = []
    for part in parts:  # what the others say is known when the last one settles
        teacher.settle(part, lambda rows: (seen.append(rows), torch.cat(seen))[1])
    for name, parameter in whole.named_parameters():
        gradient = sum(part.get_parameter(name).grad for part in parts)
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-9, atol=1e-12, msg=name)
    for name, value in whole.named_buffers():
        assert torch.equal(parts[-1].get_buffer(name), value), name
    if processes == 2:  # control: in another order of groups the statistics are others
        reverse = copy.deepcopy(whole)
        reverse.load_state_dict(network().state_dict())
        reverse(x.flip(0))
        teacher.settle(reverse, lambda rows: rows)
        assert not torch.equal(reverse.get_buffer("stem.bn.running_mean"), whole.get_buffer("stem.bn.running_mean"))
