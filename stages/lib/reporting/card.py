"""The text of a model card: README.md of an exported folder. Only what the inputs say; no time, no host, no path of a machine."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

LISTED = 20  # classes; a longer list stands in config.json
OUR_LICENCE = "apache-2.0"
HEADS = {
    "class": "class head",
    "dist": "distillation head",
    "fused_logits": "both heads, mean of the logits",
    "fused_probs": "both heads, mean of the softmaxes",
}
NUMBERS = {"top1": "top-1, %", "top5": "top-5, %", "mean_per_class": "mean per class, %", "nll": "nll, nats"}
METHODS = """\
* DeiT: Touvron et al., Training data-efficient image transformers & distillation through attention, arXiv:2012.12877
* MAE: He et al., Masked Autoencoders Are Scalable Vision Learners, arXiv:2111.06377
* RegNet: Radosavovic et al., Designing Network Design Spaces, arXiv:2003.13678"""


def card(
    config: Mapping[str, Any],
    metrics: Mapping[str, Any],
    images: Mapping[str, int],
    classes: Sequence[str],
    parity: int,
) -> str:
    """Markdown with YAML front matter, as model hubs read it.

    config: config.json of the folder. metrics: data/metrics/<model>.json. images: split -> number of images of the set.
    classes: names, index = label. parity: images on which timm alone gave the evaluated predictions.
    """
    sections = {
        "Architecture": _architecture(config, metrics),
        "How to load it": _loading(),
        "Preprocessing": _preprocessing(config["pretrained_cfg"]),
        "Data": _data(metrics, images, classes),
        "Measured": _measured(metrics, parity),
        "Use and limits": _limits(metrics),
        "Methods": METHODS,
    }
    body = "\n".join(f"\n## {title}\n\n{text}" for title, text in sections.items())
    return f"{_front(config)}\n# {metrics['model']} on {metrics['set']}\n\n{_what(config, metrics)}\n{body}\n"


def _front(config: Mapping[str, Any]) -> str:
    """What a hub reads; JSON strings are YAML strings, whatever is in them."""
    licence = json.dumps(config["pretrained_cfg"].get("license", OUR_LICENCE))
    tags = "\n".join(f"- {tag}" for tag in ("timm", "image-classification", _family(config).lower()))
    return f"---\nlibrary_name: timm\npipeline_tag: image-classification\nlicense: {licence}\ntags:\n{tags}\n---\n"


def _family(config: Mapping[str, Any]) -> str:
    """RegNetY or DeiT."""
    return "RegNetY" if config["architecture"].startswith("regnety") else "DeiT"


def _what(config: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """One paragraph."""
    kind = {
        "teacher": "A RegNetY convnet, the teacher of a Tutelage pipeline",
        "student": "A DeiT vision transformer, the student of a Tutelage pipeline",
        "finetuned": f"A DeiT vision transformer, a Tutelage pipeline's student fine-tuned at {metrics['image_size']} px",
    }.get(metrics["model"], f"A {_family(config)} of a Tutelage pipeline")
    two = " It has a class and a distillation token; its output is the mean of their two heads' logits."
    more = "".join(f"\n\n{note}" for note in config["pretrained_cfg"].get("notes", ()))
    return f"{kind}, for images of {metrics['classes']} classes.{two if 'dist' in metrics['heads'] else ''}{more}"


def _architecture(config: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """timm's name, overrides and size."""
    overrides = ", ".join(f"{name} {value}" for name, value in config.get("model_args", {}).items())
    rows = {
        "timm name": f"`{config['architecture']}`",
        "with": overrides or "its own sizes",
        "parameters": f"{metrics['parameters']:,}",
        "features": config["num_features"],
        "classes": config["num_classes"],
    }
    return _table(("", ""), rows.items())


def _loading() -> str:
    """Three lines of timm."""
    return """\
```python
import timm
model = timm.create_model("local-dir:path/to/this/folder", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
```

`model(transform(image).unsqueeze(0)).softmax(1)` of an RGB PIL image gives a probability for each of
`model.pretrained_cfg["label_names"]`. The weights are safetensors; nothing is unpickled."""


def _preprocessing(wanted: Mapping[str, Any]) -> str:
    """What `resolve_model_data_config` finds in config.json."""
    _, height, width = wanted["input_size"]
    return (
        f"Resize the shorter side to floor({height} / {wanted['crop_pct']}) = {int(height / wanted['crop_pct'])} pixels "
        f"({wanted['interpolation']}), crop the centre {height}x{width}, scale to 0..1, "
        f"subtract the mean {wanted['mean']} and divide by the standard deviation {wanted['std']} of red, green and blue."
    )


def _data(metrics: Mapping[str, Any], images: Mapping[str, int], classes: Sequence[str]) -> str:
    """The set, its splits and classes."""
    counts = ", ".join(f"{count:,} in {split}" for split, count in images.items())
    names = f": {', '.join(classes)}" if len(classes) <= LISTED else "; their names are in config.json"
    return f"The set `{metrics['set']}`, {sum(images.values()):,} images ({counts}) of {len(classes)} classes{names}."


def _measured(metrics: Mapping[str, Any], parity: int) -> str:
    """Every head's numbers, and the file they come from."""
    first = next(iter(metrics["heads"].values()))
    columns = [name for name in NUMBERS if name in first]
    rows = [(HEADS[head], *(values[name] for name in columns)) for head, values in metrics["heads"].items()]
    agreement = ", ".join(
        f"{pair.replace('_', ' / ', 1)} {value} %" for pair, value in metrics.get("agreement", {}).items()
    )
    return "\n\n".join(
        [
            f"On the {metrics['images']:,} images of the {metrics['split']} split, each once:",
            _table(("head", *(NUMBERS[name] for name in columns)), rows),
            *([f"Heads agree: {agreement}."] if agreement else []),
            f"From `data/metrics/{metrics['model']}.json`. Loaded by timm alone, this folder predicted the same class for each of "
            f"the first {parity:,} of these images (`parity.json`).",
        ]
    )


def _limits(metrics: Mapping[str, Any]) -> str:
    """What the numbers do not say."""
    return f"""\
For research on training data-efficient vision transformers, and for images like those of `{metrics["set"]}`. Every image
is given one of the {metrics["classes"]} classes, also one that shows none of them. Nothing was measured of other data, of
shifted or adversarial images, of calibration beyond the likelihood above, or of fairness between groups of people."""


def _table(header: Sequence[str], rows: Any) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)
