"""Export a model as files that others load alone, proven to predict what was evaluated. A leaf: nothing depends on it.

in    data/models/<model>                 weights and preprocessing
      data/metrics/<model>.json           for the card, and which split was evaluated; an encoder has none
      data/predictions/<model>.parquet    what the exported folder must predict; an encoder has none
      data/index/<set>.parquet            where the images to prove it on lie
out   data/exported/<model>               model.safetensors, config.json, README.md, parity.json; model.onnx, model.pt2 if wanted
run   dvc repro -s export@<model>
      python -m stages.export <model> --publish <s3://bucket/prefix or folder>    hands what was exported to stages.publish
"""

import copy
import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import timm
import torch
from timm.data import create_transform, resolve_model_data_config
from torch import nn

from stages.lib.core import files, load, outcome
from stages.lib.core.outcome import Refusal
from stages.lib.data import predictions, stamp
from stages.lib.data.decode import decode
from stages.lib.data.index import Index, read_index
from stages.lib.data.predictions import Predictions
from stages.lib.data.preparation import preparation_of
from stages.lib.data.published import Published, shards_of
from stages.lib.data.shards import ShardReader
from stages.lib.data.stamp import Stamp
from stages.lib.models import folder, onnx_file, outputs, program_file
from stages.lib.params.export import Export
from stages.lib.params.published import PublishedUri
from stages.lib.params.system import System
from stages.lib.reporting import measured
from stages.lib.reporting.card import card
from stages.lib.training import parity
from stages.lib.training.device import device_of
from stages.lib.training.parity import Candidate

log = logging.getLogger(__name__)
BATCH = 64
ENCODER, ENCODER_SPLIT = "mae", "val"
AGAIN = "Run `dvc repro evaluate@{0} export@{0}`: the model, its preprocessing or timm changed since it was evaluated."


def main() -> None:
    """Build the folder beside its place, prove it, write its card, and only then put it there."""
    if "--publish" in sys.argv:
        return publish(sys.argv[1:])
    name, set_name = sys.argv[1:3]
    cfg, system = load.load("export", Export), load.load("system", System)
    model, index_path = Path(f"data/models/{name}"), Path(f"data/index/{set_name}.parquet")
    shards = shards_of(set_name, load.load_optional("shard", "published_uri", PublishedUri), system)
    metrics = None if name == ENCODER else evaluated(Path(f"data/metrics/{name}.json"), name, set_name)
    index = read_index(index_path, metrics["split"] if metrics else ENCODER_SPLIT)
    device = device_of(system)
    with files.replace_folder(Path(f"data/exported/{name}")) as built:
        for file in (folder.WEIGHTS, folder.CONFIG):
            with files.replace(built / file) as temporary:
                shutil.copyfile(model / file, temporary)
        network = strictly_loaded(built)
        images = min(cfg.parity_images, len(index))
        others = [as_timm(network), *further(cfg, network, built)]
        proven: dict[str, Any] = {"images": images}
        if metrics:
            predicted = Path(f"data/predictions/{name}.parquet")
            found = probabilities(copy.deepcopy(network), index, shards, images, device)
            proven = compare(found, index, pq.read_table(predicted).to_pydict(), cfg.parity_tolerance, name)
            must_be_fresh(metrics, predictions.read(predicted), stamp.of(model, index_path), name)
        largest = parity.prove(own(model), others, index, shards, images, cfg.parity_tolerance, bool(metrics))
        proven |= {"largest_difference": largest, "files": sorted(path.name for path in built.iterdir())}
        text = card(folder.config_of(built), metrics, splits_of(index_path), index.classes, proven, set_name)
        for file, content in (("parity.json", json.dumps(proven, indent=1) + "\n"), ("README.md", text)):
            with files.replace(built / file) as temporary:
                temporary.write_text(content, encoding="utf-8")
    log.info("%s: %s give on all %d images what the model gives", name, ", ".join(largest), images)


def publish(arguments: list[str]) -> None:
    """Start stages.publish on what is exported. Not an import: publishing can change nothing that is exported. Raises Refusal."""
    place = arguments.index("--publish")
    names, target = arguments[:place] + arguments[place + 2 :], arguments[place + 1 : place + 2]
    if len(names) != 1 or not target:
        raise Refusal("use: python -m stages.export <model> --publish <s3://bucket/prefix or folder>")
    code = subprocess.run([sys.executable, "-m", "stages.publish", "model", *names, *target]).returncode
    if code == 2:
        raise Refusal(f"{names[0]} was not published; what was wrong stands above.")
    if code:
        raise OSError(f"{names[0]} was not published: python -m stages.publish ended with {code}")


def own(model: Path) -> Candidate:
    """The model as this pipeline measures it: its own decoding, preparation and forward pass."""
    network, config = folder.load(model)
    preparation = preparation_of(config["pretrained_cfg"], model / folder.CONFIG)
    return Candidate(
        "the model",
        lambda image: preparation.normalise(torch.from_numpy(preparation.view(image))[None])[0],
        lambda images: outputs.ours(network, images),
        outputs.names(network),
    )


def as_timm(network: nn.Module) -> Candidate:
    """The exported folder as a stranger uses it."""
    prepare = parity.documented(resolve_model_data_config(network))
    return Candidate("timm", prepare, outputs.Outputs(network).eval(), outputs.names(network))


def further(cfg: Export, network: nn.Module, built: Path) -> list[Candidate]:
    """Write the other formats and open them again: each prepares images as the file itself says."""
    config, found = folder.config_of(built), []
    size = config["pretrained_cfg"]["input_size"][-1]
    about = {"preprocessing": described(network), "label_names": config.get("label_names", [])}
    about |= {"architecture": config["architecture"], "outputs": list(outputs.names(network))}
    if "onnx" in cfg.formats:
        onnx_file.write(network, size, about, built)
        prepare = parity.documented(onnx_file.about(built)["preprocessing"])
        session = onnx_file.Session(built)
        found.append(Candidate("onnx", prepare, session, session.names))
    if "torch-export" in cfg.formats:
        program_file.write(network, size, about, built)
        said = program_file.about(built)
        run = program_file.Program(built)
        found.append(Candidate("torch-export", parity.documented(said["preprocessing"]), run, tuple(said["outputs"])))
    return found


def described(network: nn.Module) -> dict[str, Any]:
    """The preprocessing a file needs, in timm's words and order: resize, crop the centre, scale to 0..1, normalise."""
    wanted = resolve_model_data_config(network)
    kept = ("input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std")
    return {**{key: wanted[key] for key in kept}, "channels": "RGB"}


def evaluated(path: Path, name: str, set_name: str) -> dict[str, Any]:
    """The metrics. Raises Refusal if they are damaged, or of another model or set."""
    try:
        metrics: dict[str, Any] = measured.numbers(path.read_bytes())
        wrong = measured.problem(metrics, str(metrics.get("model")))
    except (OSError, ValueError, AttributeError) as error:
        wrong = f"is missing or no JSON object ({error})"
    if wrong:
        raise Refusal(
            f"{path} {wrong}. `dvc checkout --force {path}` restores it, `dvc repro evaluate@{name}` makes it again."
        )
    if (metrics["model"], metrics["set"]) != (name, set_name):
        raise Refusal(
            f"{path} is about {metrics['model']} on {metrics['set']}, not {name} on {set_name}. {AGAIN.format(name)}"
        )
    return metrics


def strictly_loaded(path: Path) -> nn.Module:
    """The folder as a stranger loads it. Raises Refusal unless every tensor of the file is in the model as it is."""
    try:
        network = timm.create_model(f"local-dir:{path}", pretrained=True).eval()
    except Exception as error:  # whatever timm meets in a config somebody edited
        raise folder.unfit(path, str(error)) from error
    weights, loaded = folder.state(path), network.state_dict()
    changed = [key for key in weights.keys() & loaded.keys() if not torch.equal(weights[key], loaded[key])]
    if wrong := sorted([*(weights.keys() ^ loaded.keys()), *changed]):
        raise folder.unfit(path, f"timm drops, adds or changes {', '.join(wrong[:5])}")
    return network


@torch.inference_mode()
def probabilities(
    network: nn.Module, index: Index, shards: Path | Published, images: int, device: torch.device
) -> np.ndarray:
    """f32[images, K] of the split's first images, prepared by timm as config.json says."""
    transform = create_transform(**resolve_model_data_config(network), is_training=False)
    reader, network, found = ShardReader(index, shards), network.to(device), []
    for start in range(0, images, BATCH):
        rows = range(start, min(start + BATCH, images))
        batch = torch.stack([transform(decode(reader.read(row), int(index.orientation[row]))) for row in rows])
        found.append(network(batch.to(device)).double().softmax(1).float().cpu().numpy())
    return np.concatenate(found)


def compare(
    found: np.ndarray, index: Index, predicted: dict[str, list[Any]], tolerance: float, name: str
) -> dict[str, Any]:
    """parity.json. Raises Refusal naming the worst image unless every class is equal and every probability close."""
    images = len(found)
    if predicted["key"] != index.keys:
        raise Refusal(
            f"the predictions of {name} are not about the {index.split} images of {index.set_name}. {AGAIN.format(name)}"
        )
    expected, probability = np.array(predicted["model_top1"][:images]), np.array(predicted["model_prob"][:images])
    got, own = found.argmax(1), found[np.arange(images), expected]
    difference = np.abs(own - probability)
    other, far = got != expected, ~(difference <= tolerance)  # not finite is far
    if other.any() or far.any():
        worst = int(np.argmax(difference + 2 * other))  # another class is worse than any difference
        raise Refusal(
            f"the exported {name} does not predict what was evaluated: of {images} images {int(other.sum())} get another "
            f"class, {int(far.sum())} a probability that differs by more than {tolerance}. The worst is {index.keys[worst]}: "
            f"evaluated {index.classes[expected[worst]]} at {probability[worst]:.6f}, exported "
            f"{index.classes[got[worst]]} at {found[worst].max():.6f} with {own[worst]:.6f} left for the evaluated class. "
            + AGAIN.format(name)
        )
    return {"images": images, "max_difference": float(difference.max()), "predictions_equal": True}


def must_be_fresh(metrics: dict[str, Any], predicted: Predictions, now: Stamp, name: str) -> None:
    """Raise Refusal unless metrics and predictions are of one measurement, that of the weights and images that are there now."""
    if wrong := predictions.contradiction(predicted, metrics):
        raise Refusal(
            f"the metrics of {name} and {predicted.path} are not of one measurement: {wrong}. {AGAIN.format(name)}"
        )
    if apart := stamp.difference(metrics.get("stamp"), now):
        raise Refusal(f"the metrics of {name} are stale: they were measured with another {apart}. {AGAIN.format(name)}")


def splits_of(index_path: Path) -> dict[str, int]:
    """split -> images, in the order of the index."""
    counts: dict[str, int] = {}
    for split in pq.read_table(index_path, columns=["split"])["split"].to_pylist():
        counts[split] = counts.get(split, 0) + 1
    return counts


if __name__ == "__main__":
    outcome.run("export", main)
