"""Weights, gradients and the optimizer's state divided among processes (FSDP2; Zhao et al. 2023, arXiv 2304.11277).

For models whose training does not fit into one device's memory: of 16 bytes a parameter (weight, gradient, AdamW's two moments) a
process keeps a share of each, and the whole weights once more (4 bytes) for validation and artefacts, brought up to date when those
are wanted. The gathering happens branch by branch, so that at most one attention or MLP is whole while a step computes.
"""

import copy
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from stages.lib.core.outcome import Refusal

CONTAINERS = ("blocks", "decoder_blocks")
"""Where transformers keep their blocks."""


def divided(
    objective: nn.Module, network: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A copy of the objective whose transformer is divided, and an optimizer like this one over that copy, with its state.

    Raises Refusal for anything but a transformer, and for compiled blocks.
    """
    blocks = [block for name in CONTAINERS for block in getattr(network, name, ())]
    if not blocks or not all(hasattr(block, "attn") for block in blocks):
        raise Refusal("system.shard_weights divides transformers only; set it to false for this stage.")
    how = [getattr(getattr(network, name, None), "how", None) for name in CONTAINERS]
    if any(getattr(one, "compiled", False) for one in how):
        raise Refusal("system.shard_weights does not go with compile: true; set one of them to false.")
    whole, inner = copy.deepcopy((objective, network))
    mesh = init_device_mesh(next(objective.parameters()).device.type, (dist.get_world_size(),))
    for name in CONTAINERS:
        for block in getattr(inner, name, ()):
            fully_shard(block.attn, mesh=mesh)
            fully_shard(block.mlp, mesh=mesh)
    fully_shard(whole, mesh=mesh)
    return whole, _over(optimizer, dict(inner.named_parameters()))


def bring_home(compute: nn.Module, objective: nn.Module) -> None:
    """Copy the divided weights into the whole objective of every process: a collective."""
    ours = objective.state_dict()
    for name, value in compute.state_dict().items():
        ours[name].copy_(_whole(value))


def whole_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """state_dict of an optimizer over divided weights, as that of one over whole ones: a collective."""
    found = optimizer.state_dict()
    state = {number: {key: _whole(value) for key, value in kept.items()} for number, kept in found["state"].items()}
    return {**found, "state": state}


def _over(optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter]) -> torch.optim.Optimizer:
    """An optimizer of the same kind, groups and state over the divided parameters of the same names."""
    groups = [{**group, "params": [parameters[name] for name in group["names"]]} for group in optimizer.param_groups]
    made = cast(Any, type(optimizer))(groups, lr=0.0)
    for before, after in zip(optimizer.param_groups, made.param_groups, strict=True):
        for mine, theirs in zip(before["params"], after["params"], strict=True):
            made.state[theirs] = {
                key: _as(value, theirs) if isinstance(value, Tensor) and value.shape == mine.shape else value
                for key, value in optimizer.state.get(mine, {}).items()
            }
    return cast(torch.optim.Optimizer, made)


def _as(value: Tensor, like: nn.Parameter) -> Tensor:
    """Divided as a parameter is."""
    divided = cast(DTensor, like)
    return distribute_tensor(value, divided.device_mesh, divided.placements)


def _whole(value: Any) -> Any:
    return value.full_tensor() if isinstance(value, DTensor) else value
