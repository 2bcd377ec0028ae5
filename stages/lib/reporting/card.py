"""The text of a model card: README.md of an exported folder. Only what the inputs say; no time, no host, no path of a machine."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

LISTED = 20  # classes; a longer list stands in config.json
OUR_LICENCE = "apache-2.0"
HUB_LICENCES = {
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "openrail", "unknown",
}  # fmt: skip
"""Those of the hub's own identifiers that weights come under; any other is `other` with a name."""
NON_COMMERCIAL = re.compile(r"\bnc\b|non-?\s?commercial", re.IGNORECASE)
HEADS = {
    "class": "class head",
    "dist": "distillation head",
    "fused_logits": "both heads, mean of the logits",
    "fused_probs": "both heads, mean of the softmaxes",
}
NUMBERS = {
    "top1": "top-1, %",
    "top5": "top-5, %",
    "mean_per_class": "mean per class, %",
    "nll": "nll, nats",
    "top1_low": "top-1, 95 % from",
    "top1_high": "to",
    "ece": "calibration error, %",
}
METHODS = """\
* DeiT: Touvron et al., Training data-efficient image transformers & distillation through attention, arXiv:2012.12877
* MAE: He et al., Masked Autoencoders Are Scalable Vision Learners, arXiv:2111.06377
* RegNet: Radosavovic et al., Designing Network Design Spaces, arXiv:2003.13678"""


def card(
    config: Mapping[str, Any],
    metrics: Mapping[str, Any] | None,
    images: Mapping[str, int],
    classes: Sequence[str],
    proven: Mapping[str, Any],
    set_name: str,
) -> str:
    """Markdown with YAML front matter, as model hubs read it.

    config: config.json of the folder. metrics: data/metrics/<model>.json, None for an encoder without a head. images: split ->
    number of images of the set. classes: names, index = label. proven: parity.json of the folder.
    """
    measured = {"Measured": _measured(metrics)} if metrics else {}
    sections = {
        "Architecture": _architecture(config),
        "How to load it": _loading(config, proven),
        "Preprocessing": _preprocessing(config["pretrained_cfg"]),
        "Data": _data(set_name, images, classes),
        **measured,
        "Proven": _proven(proven, metrics),
        "Licences": _licences(config, set_name),
        "Use and limits": _limits(metrics, set_name),
        "Methods": METHODS,
    }
    name = metrics["model"] if metrics else "mae"
    body = "\n".join(f"\n## {title}\n\n{text}" for title, text in sections.items())
    return f"{_front(config, metrics, set_name)}\n# {name} on {set_name}\n\n{_what(config, metrics)}\n{body}\n"


def _front(config: Mapping[str, Any], metrics: Mapping[str, Any] | None, set_name: str) -> str:
    """What a hub reads; JSON is YAML, whatever is in its strings."""
    task = "image-classification" if metrics else "image-feature-extraction"
    entries: dict[str, Any] = {
        "library_name": "timm",
        "pipeline_tag": task,
        **_hub_licence(licence_of(config)),
        "tags": ["timm", task, _family(config).lower()],
        "datasets": [set_name],
    }
    if metrics:
        entries |= {"metrics": ["accuracy"], "model-index": [{"name": metrics["model"], "results": _results(metrics)}]}
    lines = "\n".join(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in entries.items())
    return f"---\n{lines}\n---\n"


def licence_of(config: Mapping[str, Any]) -> str:
    """The licence of these weights: their own where they came with one, else the narrowest of what they learnt from, else ours."""
    if own := config["pretrained_cfg"].get("license"):
        return str(own)
    others = [origin["licence"] for origin in config.get("derived_from", [])]
    return next((licence for licence in others if NON_COMMERCIAL.search(licence)), OUR_LICENCE)


def _hub_licence(licence: str) -> dict[str, str]:
    """The licence in a hub's words."""
    if licence.lower() in HUB_LICENCES:
        return {"license": licence.lower()}
    return {"license": "other", "license_name": licence}


def _results(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every head's accuracies as a hub's model-index has them, in percent."""
    values = [
        {"type": "accuracy", "name": f"{NUMBERS[number]} ({HEADS[head]})", "value": values[number]}
        for head, values in metrics["heads"].items()
        for number in ("top1", "top5", "mean_per_class")
        if number in values
    ]
    about = {"name": metrics["set"], "type": metrics["set"], "split": metrics["split"]}
    return [{"task": {"type": "image-classification"}, "dataset": about, "metrics": values}]


def _family(config: Mapping[str, Any]) -> str:
    """RegNetY, DeiT or, for an encoder, ViT."""
    families = {"regnety": "RegNetY", "vit": "ViT"}
    return next((family for start, family in families.items() if config["architecture"].startswith(start)), "DeiT")


def _what(config: Mapping[str, Any], metrics: Mapping[str, Any] | None) -> str:
    """One paragraph."""
    more = "".join(f"\n\n{note}" for note in config["pretrained_cfg"].get("notes", ()))
    if metrics is None:
        return (
            "The encoder of a masked autoencoder of a Tutelage pipeline: a vision transformer without a head, pretrained without "
            f"labels. It gives {config['num_features']} features an image: the class token after the last norm.{more}"
        )
    kind = {
        "teacher": f"A {_family(config)}, the teacher of a Tutelage pipeline",
        "student": "A DeiT vision transformer, the student of a Tutelage pipeline",
        "finetuned": f"A DeiT vision transformer, a Tutelage pipeline's student fine-tuned at {metrics['image_size']} px",
    }.get(metrics["model"], f"A {_family(config)} of a Tutelage pipeline")
    two = " It has a class and a distillation token; its output is the mean of their two heads' logits."
    return f"{kind}, for images of {metrics['classes']} classes.{two if 'dist' in metrics['heads'] else ''}{more}"


def _architecture(config: Mapping[str, Any]) -> str:
    """timm's name, overrides and size."""
    overrides = ", ".join(f"{name} {value}" for name, value in config.get("model_args", {}).items())
    rows = {
        "timm name": f"`{config['architecture']}`",
        "with": overrides or "its own sizes",
        "features": config["num_features"],
        "classes": config["num_classes"],
    }
    return _table(("", ""), rows.items())


def _loading(config: Mapping[str, Any], proven: Mapping[str, Any]) -> str:
    """Three lines of timm, and of what else lies here."""
    gives = (
        "`model(transform(image).unsqueeze(0)).softmax(1)` of an RGB PIL image gives a probability for each of\n"
        '`model.pretrained_cfg["label_names"]`.'
        if config["num_classes"]
        else "`model(transform(image).unsqueeze(0))` of an RGB PIL image gives its features."
    )
    text = f"""\
```python
import timm
model = timm.create_model("local-dir:path/to/this/folder", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
```

On a hub the name is `hf-hub:<owner>/<name>` instead. {gives} The weights are safetensors; nothing is unpickled."""
    more = {
        "model.onnx": "`model.onnx` is the same for ONNX runtimes: input `images`, float32, any number of normalised images, red "
        "first; an output for every head. Preprocessing and class names are in its metadata.",
        "model.pt2": "`model.pt2` is the same for `torch.export.load`; preprocessing and class names are in its `about.json`.",
    }
    return "\n\n".join([text, *(words for file, words in more.items() if file in proven["files"])])


def _preprocessing(wanted: Mapping[str, Any]) -> str:
    """What `resolve_model_data_config` finds in config.json."""
    _, height, width = wanted["input_size"]
    return (
        f"Resize the shorter side to floor({height} / {wanted['crop_pct']}) = {int(height / wanted['crop_pct'])} pixels "
        f"({wanted['interpolation']}), crop the centre {height}x{width}, scale to 0..1, "
        f"subtract the mean {wanted['mean']} and divide by the standard deviation {wanted['std']} of red, green and blue."
    )


def _data(set_name: str, images: Mapping[str, int], classes: Sequence[str]) -> str:
    """The set, its splits and classes."""
    counts = ", ".join(f"{count:,} in {split}" for split, count in images.items())
    names = f": {', '.join(classes)}" if len(classes) <= LISTED else "; their names are in config.json"
    return f"The set `{set_name}`, {sum(images.values()):,} images ({counts}) of {len(classes)} classes{names}."


def _measured(metrics: Mapping[str, Any]) -> str:
    """Every head's numbers, the file they come from and the command that made it."""
    first = next(iter(metrics["heads"].values()))
    columns = [name for name in NUMBERS if name in first]
    rows = [(HEADS[head], *(values[name] for name in columns)) for head, values in metrics["heads"].items()]
    agreement = ", ".join(
        f"{pair.replace('_', ' / ', 1)} {value} %" for pair, value in metrics.get("agreement", {}).items()
    )
    model = metrics["model"]
    return "\n\n".join(
        [
            f"On the {metrics['images']:,} images of the {metrics['split']} split, each once:",
            _table(("head", *(NUMBERS[name] for name in columns)), rows),
            *([f"Heads agree: {agreement}."] if agreement else []),
            f"The model has {metrics['parameters']:,} parameters.",
            f"From `data/metrics/{model}.json`, which `dvc repro evaluate@{model}` writes.",
        ]
    )


def _proven(proven: Mapping[str, Any], metrics: Mapping[str, Any] | None) -> str:
    """What was compared before the files left, and how far they were apart."""
    outputs = "logit" if metrics else "feature"
    found = ", ".join(f"{name} {value:.1e}" for name, value in proven["largest_difference"].items())
    same = "Loaded by timm alone it predicted the evaluated class of each of them. " if metrics else ""
    command = f"dvc repro export@{metrics['model']}" if metrics else "dvc repro export-mae"
    return (
        f"On the first {proven['images']:,} of these images, each file by the library it is for and prepared as the file itself "
        f"says. {same}Largest difference of any {outputs} from the model that was measured, in single precision: {found} "
        f"(`parity.json`; `{command}`)."
    )


def _licences(config: Mapping[str, Any], set_name: str) -> str:
    """Of the weights, of what they learnt from, and of the images."""
    lines = [f"These weights: {licence_of(config)}."]
    origins = config.get("derived_from", [])
    lines += [f"Learnt from `{origin['model']}`, whose weights are under {origin['licence']}." for origin in origins]
    if any(NON_COMMERCIAL.search(licence) for licence in [licence_of(config), *(one["licence"] for one in origins)]):
        lines.append("**Weights of a non-commercial licence were used: these may not serve a commercial purpose.**")
    lines.append(f"The images of `{set_name}` have terms of their own, which the pipeline does not know.")
    return "\n".join(f"* {line}" for line in lines)


def _limits(metrics: Mapping[str, Any] | None, set_name: str) -> str:
    """What the numbers do not say."""
    use = f"For research on training data-efficient vision transformers, and for images like those of `{set_name}`."
    if metrics is None:
        return f"{use} An encoder is a start for training: nothing was measured of what its features are good for."
    return f"""\
{use} Every image
is given one of the {metrics["classes"]} classes, also one that shows none of them. Nothing was measured of other data, of
shifted or adversarial images, of calibration beyond the likelihood and the error above, or of fairness between groups of people."""


def _table(header: Sequence[str], rows: Any) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)
