"""Tensors out of a file somebody else wrote, .safetensors or a torch pickle, without executing anything in it."""

import argparse
import io
import pickletools
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, cast

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from stages.lib.core.outcome import Refusal

WRAPPERS = ("model", "state_dict")
ZIP = b"PK\x03\x04"
LONGEST_NAME = 1000  # bytes of a global that a pickle asks for, or of another line in one
MOST_WORDS = 2000  # characters of torch's explanation


def read(path: Path) -> dict[str, Tensor]:
    """The state dict at the file's top, or under `model` or `state_dict`; never a `model_ema` beside it. Raises Refusal."""
    content = _content(path)
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise Refusal(f"{path} holds no state dict, neither at its top nor under `model` or `state_dict`.")
    return {str(name): tensor for name, tensor in content.items()}


def _content(path: Path) -> Any:
    """What the file holds; its first bytes, not its name, say which kind it is."""
    with path.open("rb") as file:
        start = file.read(9)
    if not start.startswith(ZIP) and start[8:9] == b"{":
        try:
            return safetensors.torch.load_file(path)
        except SafetensorError as error:
            raise Refusal(f"{path} is a damaged safetensors file ({error}); fetch it again.") from None
    try:
        # The published DeiT files carry the run's argparse.Namespace beside `model`. It is a bag of attributes: allowing
        # torch's restricted unpickler to make one runs nothing.
        with torch.serialization.safe_globals([argparse.Namespace]), Bounded(io.FileIO(path)) as file:
            if start.startswith(ZIP):
                as_saved(file)
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises several kinds for a pickle it does not trust
        raise Refusal(
            f"{path} holds more than tensors and plain values, or is no torch file ({str(error)[:MOST_WORDS]}). Save its state "
            "dict alone, better as safetensors, and try again."
        ) from None


class Bounded(io.BufferedReader):
    """A file whose lines are as long as a name: torch searches a refused name in a time that grows with its square.

    Nor is memory taken for more bytes than are there, whatever length a pickle names.
    """

    def read(self, size: int | None = -1, /) -> bytes:
        """As many bytes as are there, at most."""
        if size is None or size < 1 << 20:
            return super().read(size)
        parts: list[bytes] = []
        while size and (part := super().read(min(size, 1 << 24))):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def readline(self, _size: int | None = -1, /) -> bytes:
        """Raises ValueError for a line of more than LONGEST_NAME bytes."""
        line = super().readline(LONGEST_NAME + 1)
        if len(line) > LONGEST_NAME:
            raise ValueError(f"a name of more than {LONGEST_NAME:,} bytes")
        return line


def as_saved(file: BinaryIO) -> None:
    """Raises ValueError for a zip that torch.save did not write: its entries are stored, so that none unfolds to more than it is.

    The same goes for the names its pickle asks for. Leaves the file at its beginning.
    """
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
                raise ValueError(f"{entry.filename[:100]} is compressed, which torch.save does not do")
            if entry.filename.endswith("/data.pkl"):
                with Bounded(cast(Any, archive.open(entry))) as data:
                    for _ in pickletools.genops(data):  # type: ignore[arg-type]
                        pass
    file.seek(0)
