"""A model as ONNX: float32, any batch size, every head an output, preprocessing and class names in the file's metadata.

The same model gives the same bytes: what the exporter notes about the code it traced (paths, stack traces) is taken out.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stages.lib.core import files
from stages.lib.models import outputs

FILE = "model.onnx"
WEIGHTS_BESIDE = 1 << 30  # bytes of weights from which they lie in model.onnx.data: protobuf ends at 2 GiB


def write(network: nn.Module, image_size: int, about: Mapping[str, Any], folder: Path) -> None:
    """model.onnx in `folder` (large models: model.onnx.data beside it), checked by onnx's own checker.

    network: in eval mode, on the CPU. about: JSON values for the metadata, such as `preprocessing` and `label_names`.
    """
    import onnx
    import onnxscript  # noqa: F401  # torch writes ONNX through it; named here so that DVC sees its version

    for chatty in ("onnxscript", "onnx_ir"):  # a line for every node they drop or share
        logging.getLogger(chatty).setLevel(logging.WARNING)
    program = torch.onnx.export(
        outputs.Outputs(network).eval(),
        (torch.zeros(2, 3, image_size, image_size),),
        dynamo=True,
        input_names=[outputs.INPUT],
        output_names=list(outputs.names(network)),
        dynamic_shapes={outputs.INPUT: {0: "batch"}},
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    forget_origins(model)
    onnx.helper.set_model_props(model, {name: json.dumps(value, ensure_ascii=False) for name, value in about.items()})
    size = sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
    if size < WEIGHTS_BESIDE:
        with files.replace(folder / FILE) as temporary:
            temporary.write_bytes(model.SerializeToString(deterministic=True))
    else:
        onnx.save_model(
            model, str(folder / FILE), save_as_external_data=True, location=f"{FILE}.data", size_threshold=1024
        )
    onnx.checker.check_model(str(folder / FILE), full_check=True)


def forget_origins(message: Any) -> None:
    """Clear doc strings and metadata of an ONNX message and of everything in it: they hold paths and lines of our code."""
    for field in ("doc_string", "metadata_props"):
        if field in message.DESCRIPTOR.fields_by_name:
            message.ClearField(field)
    for field, value in message.ListFields():
        if field.message_type is not None and field.name not in ("raw_data", "float_data"):
            for part in value if field.is_repeated else [value]:
                forget_origins(part)


def about(folder: Path) -> dict[str, Any]:
    """What the file says of itself."""
    import onnx

    model = onnx.load(str(folder / FILE), load_external_data=False)
    return {entry.key: json.loads(entry.value) for entry in model.metadata_props}


class Session:
    """The file as its users run it: onnxruntime on the CPU."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(folder / FILE), options, providers=["CPUExecutionProvider"])
        self.names = tuple(output.name for output in self.session.get_outputs())

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """f32[B, 3, H, W] -> the file's outputs, in its order."""
        found = self.session.run(None, {outputs.INPUT: images.numpy()})
        return tuple(torch.from_numpy(values) for values in found)
