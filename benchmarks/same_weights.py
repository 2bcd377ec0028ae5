"""Does compiled code move a result? The same training with it and without it, seed by seed: accuracy and every bit of the weights.

    python -m benchmarks.same_weights --images <folder of train/<class>/*.jpg and test/<class>/*.jpg> --seeds 0,1,2

A small DeiT from scratch on labels, with crop, flip, RandAugment, erasing and mixing, through the stages scan, ingest, shard
and distill in a temporary folder. TUTELAGE_NATIVE=0 is the way through Pillow alone. The margin is zero: one differing bit is
a failure.
"""

import argparse
import csv
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
VIEWS = {
    "epochs": 3, "batch_size": 128, "image_size": 32, "crop": "random-resized", "scale": [0.3, 1.0], "hflip": 0.5, "repeats": 1,
    "randaugment": "rand-m9-mstd0.5-inc1", "erase": 0.25, "mixup": 0.8, "cutmix": 1.0, "mix_prob": 0.5, "mix_group": 128,
}  # fmt: skip


def main() -> int:
    """Print a line a seed; 1 where any two runs differ."""
    parser = argparse.ArgumentParser(description="The same training with compiled code and without it.")
    parser.add_argument("--images", type=Path, required=True, help="a folder with train/<class>/* (and test/ or val/)")
    parser.add_argument("--seeds", default="0,1,2")
    options = parser.parse_args()
    differing = 0
    with tempfile.TemporaryDirectory() as place:
        lay_out(Path(place), options.images.resolve())
        for stage in ("scan", "ingest", "shard"):
            run(Path(place), stage, "1")
        for seed in map(int, options.seeds.split(",")):
            (fast, bits), (slow, others) = (trained(Path(place), seed, native) for native in ("1", "0"))
            differing += bits != others
            verdict = "equal bit for bit" if bits == others else "DIFFER"
            sys.stdout.write(
                f"seed {seed}: top-1 {fast:.2f} % compiled, {slow:.2f} % Pillow alone; weights {verdict}\n"
            )
            sys.stdout.flush()
    return int(differing > 0)


def lay_out(folder: Path, images: Path) -> None:
    """A project of one set and a small student."""
    (folder / "stages").symlink_to(ROOT / "stages")
    (folder / "dvc.yaml").symlink_to(ROOT / "dvc.yaml")
    params = YAML().load(ROOT / "params.yaml")
    params["sources"] = {"pictures": {"layout": "folder", "path": str(images)}}
    params["sets"] = {"main": "pictures", "transfer": []}
    params["train"] |= {"distill": "none", "init": "scratch", "teacher": "none"}
    params["train"]["views"] |= VIEWS
    params["train"]["schedule"] |= {"warmup_epochs": 1}
    with (folder / "params.yaml").open("w") as file:
        YAML().dump(params, file)


def trained(folder: Path, seed: int, native: str) -> tuple[float, str]:
    """(top-1 in percent on the validation split, sha256 of the weights) of one run."""
    params = YAML().load(folder / "params.yaml")
    params["train"]["views"]["seed"] = seed
    with (folder / "params.yaml").open("w") as file:
        YAML().dump(params, file)
    run(folder, "distill", native)
    with (folder / "data/history/student.csv").open() as file:
        top1 = float(list(csv.DictReader(file))[-1]["val_top1"])
    return top1, hashlib.sha256((folder / "data/models/student/model.safetensors").read_bytes()).hexdigest()


def run(folder: Path, stage: str, native: str) -> None:
    """A stage to its end, its run folder beside no other's: a finished run would only be restored."""
    with tempfile.TemporaryDirectory() as runs:
        environment = {**os.environ, "TUTELAGE_NATIVE": native, "TUTELAGE_RUNS": runs, "TUTELAGE_RAW": str(folder)}
        subprocess.run([sys.executable, "-m", f"stages.{stage}", "pictures"], cwd=folder, env=environment, check=True)


if __name__ == "__main__":
    sys.exit(main())
