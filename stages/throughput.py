"""How fast do exported models answer on this machine? No DVC stage: a rate belongs to a machine, not to a recipe.

in    data/exported/<model>                      as timm alone loads it
out   <run root>/throughput/<model>.json         images a second and memory at each batch size, parameters, MACs, the machine
run   python -m stages.throughput [<model> ...] [--batch-sizes 1,16,64,256]
"""

import json
import logging
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stages.lib.core import files, load, outcome
from stages.lib.core.outcome import Refusal
from stages.lib.models import flops, folder
from stages.lib.params.precision import Precision
from stages.lib.params.system import System
from stages.lib.training import speed
from stages.lib.training.device import device_of
from stages.lib.training.processor import name_of

log = logging.getLogger(__name__)
EXPORTED = Path("data/exported")
USE = "use: python -m stages.throughput [<model> ...] [--batch-sizes 1,16,64,256]"
BATCH_SIZES: tuple[int, ...] = (1, 16, 64, 256)


def main() -> None:
    """Measure each model, keep what was found, and print a table."""
    names, batch_sizes = asked(sys.argv[1:])
    device = device_of(load.load("system", System))
    for name in names or exported():
        found = about(EXPORTED / name, device) | {"rows": []}
        print_head(found)
        for row in rows(EXPORTED / name, device, batch_sizes):
            found["rows"].append(row)
            print_row(row)
        with files.replace(files.root() / "throughput" / f"{name}.json") as temporary:
            temporary.write_text(json.dumps(found, indent=1) + "\n")


def asked(words: list[str]) -> tuple[list[str], tuple[int, ...]]:
    """(models, batch sizes) of a command line. Raises Refusal for what it does not know."""
    names, batch_sizes = list(words), BATCH_SIZES
    if "--batch-sizes" in names:
        place = names.index("--batch-sizes")
        given = names[place + 1 : place + 2]
        del names[place : place + 2]
        try:
            batch_sizes = tuple(int(word) for word in given[0].split(","))
        except (IndexError, ValueError):
            raise Refusal(f"--batch-sizes takes whole numbers with commas, such as 1,16,64; {USE}") from None
    if min(batch_sizes) < 1:
        raise Refusal(f"--batch-sizes {min(batch_sizes)}: a batch has at least one image; {USE}")
    if odd := [name for name in names if name.startswith("-")]:
        raise Refusal(f"{odd[0]} is not known; {USE}")
    for name in names:
        if not (EXPORTED / name / folder.CONFIG).is_file():
            there = ", ".join(exported()) or "none"
            raise Refusal(f"There is no {EXPORTED / name}; exported are: {there}. `dvc repro export@{name}` makes it.")
    return names, batch_sizes


def exported() -> list[str]:
    """Names of all models that are there."""
    return sorted(path.parent.name for path in EXPORTED.glob(f"[!.]*/{folder.CONFIG}"))


def about(path: Path, device: torch.device) -> dict[str, Any]:
    """The model and the machine."""
    network, config = folder.load(path)
    size = config["pretrained_cfg"]["input_size"][-1]
    return {
        "model": path.name,
        "architecture": config["architecture"],
        "image_size": size,
        "parameters": sum(weight.numel() for weight in network.parameters()),
        "macs": flops.counted_macs(network, size),
        "machine": machine(device),
    }


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures depend on, beside the model."""
    return {
        "device": name_of(device.type) if device.type == "cuda" else processor(),
        "kind": device.type,
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.release()}",
    }


def processor() -> str:
    """Model name of the CPU, as the kernel tells it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def rows(path: Path, device: torch.device, batch_sizes: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """A row a precision and batch size; where memory was too small, `failed` says so and larger batches are tried all the same."""
    network: nn.Module = folder.load(path)[0].eval().to(device)
    size = folder.config_of(path)["pretrained_cfg"]["input_size"][-1]
    precisions: tuple[Precision, ...] = ("fp32", "bf16") if device.type == "cuda" else ("fp32",)
    for precision in precisions:
        for batch_size in batch_sizes:
            row = {"precision": precision, "batch_size": batch_size}
            found = speed.measured(network, size, batch_size, precision)
            yield row | (asdict(found) if found else {"failed": "out of memory"})


def print_head(found: dict[str, Any]) -> None:
    """The model and the head of its table."""
    where = found["machine"]
    sys.stdout.write(
        f"{found['model']} ({found['architecture']}, {found['image_size']} px): {found['parameters']:,} parameters, "
        f"{found['macs'] / 1e9:.3f} GMAC; {where['device']}, {where['threads']} threads, torch {where['torch']}\n"
        f"{'precision':>10}{'batch':>8}{'images/s':>12}{'slowest':>12}{'passes':>8}{'peak MB':>10}\n"
    )


def print_row(row: dict[str, Any]) -> None:
    """One line, as soon as it is known."""
    told = f"{row['precision']:>10}{row['batch_size']:>8}"
    if "failed" in row:
        told += f"  {row['failed']}"
    else:
        told += (
            f"{row['images_per_second']:12.1f}{row['slowest']:12.1f}{row['repeats']:8}{row['peak_bytes'] / 1e6:10.0f}"
        )
    sys.stdout.write(told + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    outcome.run("throughput", main)
