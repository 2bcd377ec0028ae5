"""Weights somebody else made: torch's two formats and safetensors, damaged and lying."""

import io
import json
import random
import struct
from argparse import Namespace
from pathlib import Path

import safetensors.torch
import torch

from stages.lib.models import tensors
from tests.fuzz.plain_pickles import PIECES
from tests.fuzz.target import Target


def header(dice: random.Random, data: bytes) -> bytes:
    """A safetensors header that says something else; its length is right."""
    try:
        size = struct.unpack("<Q", data[:8])[0]
        about = json.loads(data[8 : 8 + size])
        name = dice.choice([name for name in about if name != "__metadata__"])
        lies = [
            {"dtype": dice.choice(["F32", "F64", "BOOL", "BF16", "F8_E4M3", "X"])},
            {"shape": dice.choice([[], [1 << 40], [-1], [1 << 62, 4], [0], [2, 2]])},
            {"data_offsets": dice.choice([[0, 0], [0, 1 << 50], [8, 4], [-4, 4]])},
        ]
        about[name] |= dice.choice(lies)
        text = json.dumps(about).encode()
        return struct.pack("<Q", len(text)) + text + data[8 + size :]
    except Exception:  # no safetensors file, or one that other changes spoiled
        return data


def target(_folder: Path) -> Target:
    """Read as a teacher is read."""
    state = {"a": torch.arange(6.0).reshape(2, 3), "b.c": torch.ones(4, dtype=torch.int64)}
    good = [safetensors.torch.save(state)]
    for new in (True, False):
        for content in (state, {"model": state, "args": Namespace(lr=0.1)}):
            out = io.BytesIO()
            torch.save(content, out, _use_new_zipfile_serialization=new)
            good.append(out.getvalue())
    return Target(tensors.read, good, PIECES, [header])
