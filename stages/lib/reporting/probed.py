"""What the pretrained encoder knows before anything is fine-tuned, and what its decoder paints when more or less is hidden."""

from stages.lib.reporting import markup, pictures
from stages.lib.reporting.inputs import Record
from stages.lib.reporting.material import Material
from stages.lib.reporting.sources import Fact

PROBE = "metrics/probe.json"
NUMBERS = {
    "knn.top1": "Nearest neighbours: top-1",
    "knn.top1_low": "its 95 % interval, from",
    "knn.top1_high": "its 95 % interval, to",
    "linear.top1": "Linear classifier: top-1",
    "linear.top1_low": "the classifier's 95 % interval, from",
    "linear.top1_high": "the classifier's 95 % interval, to",
    "linear.top5": "Linear classifier: top-5",
    "linear.mean_per_class": "Linear classifier: mean over classes",
    "linear.ece": "Linear classifier: calibration error",
}


def features(found: Material) -> str:
    """Accuracy of neighbours and of a linear classifier on frozen features, and what was measured to get it."""
    record = found.folder.record(PROBE)
    if record is None:
        return markup.missing(found.folder.label(PROBE))
    lines: list[tuple[str, Fact | None]] = [
        ("Images", record.fact("images")),
        ("Neighbours asked", record.fact("knn.k")),
    ]
    lines += [(title, record.fact(key)) for key, title in NUMBERS.items()]
    lines += [("Linear classifier: NLL, nats", record.fact("linear.nll"))]
    caption = "What the frozen encoder's features are good for, before any fine-tuning."
    return found.ledger.facts(caption, lines, list(NUMBERS.values()))


def hidden(record: Record) -> list[str]:
    """The mask ratios that were tried, in percent, rising."""
    tried = record.values.get("reconstruction")
    ratios = [percent for percent in tried if percent.isdecimal()] if isinstance(tried, dict) else []
    return sorted(ratios, key=int)


def painted(found: Material) -> str:
    """The same images at every mask ratio behind a slider; all of them below each other where there is no JavaScript."""
    record = found.folder.record(PROBE)
    if record is None:
        return ""
    shown = [(percent, part) for percent in hidden(record) if (part := _slide(found, record, percent))]
    if not shown:
        return ""
    middle = min(range(len(shown)), key=lambda place: abs(int(shown[place][0]) - 75))  # MAE's own ratio, or the nearest
    bar = f'<input type="range" min="0" max="{len(shown) - 1}" step="1" value="{middle}">'
    label = markup.element("label", f"Patches hidden {bar} <output></output>")
    controls = markup.element("div", label, class_="controls", hidden="hidden")
    return markup.element(
        "div", controls + "".join(part for _, part in shown), class_="slides", data_source=found.folder.label(PROBE)
    )


def _slide(found: Material, record: Record, percent: str) -> str:
    if found.folder.picture(f"mae-{percent}") is None:
        return ""
    loss = found.ledger.number(record.fact(f"reconstruction.{percent}.loss"))
    caption = (
        f"{markup.name(f'{percent} %')} of the patches hidden; loss on them {loss}. From top to bottom: images, what it is shown, "
        "what it makes of the rest."
    )
    picture = pictures.picture(
        found.folder, f"mae-{percent}", caption, f"Images, masked by {percent} %, and reconstructed"
    )
    return markup.element("div", picture, class_="slide", data_name=f"{percent} %")
