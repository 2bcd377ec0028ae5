"""A model as a torch.export program (.pt2): any batch size, every head an output, runs without timm and without this project."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stages.lib.core import files
from stages.lib.models import outputs

FILE, ABOUT = "model.pt2", "about.json"


def write(network: nn.Module, image_size: int, about: Mapping[str, Any], folder: Path) -> None:
    """model.pt2 in `folder`. network: in eval mode, on the CPU. about: JSON values, read back by `about`."""
    program = torch.export.export(
        outputs.Outputs(network).eval(),
        (torch.zeros(2, 3, image_size, image_size),),
        dynamic_shapes={outputs.INPUT: {0: torch.export.Dim.DYNAMIC}},
    )
    for graph in [module for module in program.graph_module.modules() if isinstance(module, torch.fx.GraphModule)]:
        for node in graph.graph.nodes:
            node.meta.pop("stack_trace", None)  # paths and lines of our code
    buffer = io.BytesIO()  # not the file: the archive would name its root folder after it
    torch.export.save(program, buffer, extra_files={ABOUT: json.dumps(dict(about), ensure_ascii=False)})
    with files.replace(folder / FILE) as temporary:
        temporary.write_bytes(buffer.getvalue())


def about(folder: Path) -> dict[str, Any]:
    """What the file says of itself."""
    return _read(folder)[1]


class Program:
    """The file as its users run it."""

    def __init__(self, folder: Path) -> None:
        self.module = _read(folder)[0].module()

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """f32[B, 3, H, W] -> the outputs, in the order of outputs.names."""
        found: tuple[Tensor, ...] = self.module(images)
        return found


def _read(folder: Path) -> tuple[torch.export.ExportedProgram, dict[str, Any]]:
    more = {ABOUT: ""}
    program = torch.export.load(folder / FILE, extra_files=more)
    return program, json.loads(more[ABOUT])
