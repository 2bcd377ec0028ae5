"""A teacher somebody else trained: tensors from a local file, whose sha256 was named in advance."""

from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from stages.lib.core import files
from stages.lib.core.outcome import Refusal
from stages.lib.params.teacher import Fetched


def load(network: nn.Module, cfg: Fetched, raw_root: Path) -> None:
    """Load the file's tensors into `network` strictly. Raises Refusal: file missing, another file, other tensors."""
    path = raw_root / cfg.path
    if not path.is_file():
        raise Refusal(
            f"teacher.fetch.path {path} is not there. Put the file there, or set teacher.fetch: null to train one."
        )
    found = files.sha256(path)
    if not found.startswith(cfg.sha256):
        raise Refusal(
            f"{path} has sha256 {found}, but teacher.fetch.sha256 is {cfg.sha256}. It is another file or "
            "a damaged one: fetch it again, or write its sha256 if you trust it."
        )
    state, own = tensors(path), network.state_dict()
    wrong = [f"{name} is missing" for name in own if name not in state and not name.endswith("num_batches_tracked")]
    wrong += [f"{name} is not known" for name in state if name not in own]
    wrong += [
        f"{name} is {tuple(state[name].shape)}, wanted {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    if wrong:
        raise Refusal(
            f"{path} does not fit teacher.architecture, its sizes and the {_classes(own)} classes of this set: "
            f"{'; '.join(wrong[:3])}"
            f"{f' and {len(wrong) - 3} more' if wrong[3:] else ''}."
        )
    network.load_state_dict({**own, **state})


def tensors(path: Path) -> dict[str, Tensor]:
    """The state dict in a .safetensors or .pth file; of a .pth only tensors are read, never code."""
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises several kinds for a pickle it does not trust
        raise Refusal(
            f"{path} holds more than tensors or is no torch file ({error}). Save its state dict alone and try again."
        ) from None
    for wrapper in ("model", "state_dict"):
        if isinstance(content, dict) and wrapper in content:
            content = content[wrapper]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise Refusal(f"{path} holds no state dict, neither at its top nor under `model` or `state_dict`.")
    return content


def _classes(state: dict[str, Tensor]) -> int:
    """Outputs of the last linear layer."""
    return [tensor.shape[0] for name, tensor in state.items() if name.endswith("fc.bias")][-1]
