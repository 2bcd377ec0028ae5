"""The image sets: what the gate after ingestion counted, a contact sheet, and what shards keep of the images."""

from typing import Any

from stages.lib.reporting import charts, markup, pictures
from stages.lib.reporting.inputs import Record
from stages.lib.reporting.material import Material

COUNTED = {
    "images": "Images",
    "train_images": "train, to learn from",
    "val_images": "val, to measure with",
    "test_images": "test, to choose nothing by",
    "rejected_images": "Images that could not be decoded",
    "listed_classes": "Classes",
    "train_class_ratio": "Largest class over smallest",
    "copies_inside_splits": "Copies inside a split",
}
SEEN = {
    "width": "Width, pixels",
    "height": "Height, pixels",
    "mode": "Mode",
    "format": "Format",
    "bytes": "Bytes a file",
}
STORED = {
    "images": "Images",
    "images_stored_anew": "made smaller",
    "original_bytes": "Bytes of the image files",
    "stored_bytes": "Bytes as shards hold them",
    "stored_share": "Share of the bytes that is left",
    "store.short_side": "Shorter side, pixels, of those made smaller",
    "store.quality": "JPEG quality",
    "store.subsampling": "Chroma subsampling",
    "lost": "What was lost",
    "images_measured": "Images the loss was measured on",
    "coding_psnr_db.mean": "PSNR of the JPEG against the resized original, dB, mean",
    "coding_psnr_db.p5": "its fifth percentile",
    "crop_psnr_db.mean": "PSNR of a training crop against the same crop of the original, dB, mean",
    "crop_psnr_db.p5": "the crop's fifth percentile",
}
NAMED = 30  # images named that could not be decoded; the file names them all


def section(found: Material) -> str:
    """The main set, then the transfer sets."""
    return markup.section("data", "Raw images", "".join(_one(found, name) for name in found.all_sets()))


def _one(found: Material, name: str) -> str:
    part = "for teacher, pretraining, distillation and fine-tuning" if name == found.sets.main else "for transfer"
    heading = markup.element("h3", f'{markup.name(name)} <span class="muted">{part}</span>')
    details = found.gates[f"manifest-{name}"]
    numbers = counts(found, details) if details else markup.absent("Its manifest has not been through its gate yet.")
    caption = "Training images, chosen by the hash of their content."
    sheet = pictures.picture(found.folder, name, caption, f"Contact sheet: training images of {name} in a grid")
    numbers += kept(found, name)
    right = markup.element("div", sheet + (classes(details, name) if details else "") + quarantined(found, name))
    return heading + markup.grid([markup.element("div", numbers), right], "two")


def counts(found: Material, details: Record) -> str:
    """How many images and classes, and what the files are like."""
    lines = [(title, details.fact(f"facts.{key}")) for key, title in COUNTED.items()]
    lines += [(title, details.fact(f"tables.images.columns.{key}.observed")) for key, title in SEEN.items()]
    return found.ledger.facts("What ingestion found.", lines)


def kept(found: Material, name: str) -> str:
    """What shards keep of the images, and what that costs."""
    record = found.stored[name]
    if record is None:
        return markup.absent("Its shards have not been built yet.")
    return found.ledger.facts(
        "What shards keep (<code>shard.store</code>).", [(title, record.fact(key)) for key, title in STORED.items()]
    )


def classes(details: Record, name: str) -> str:
    """Images by class and split as far as the gate lists them; "" where it lists none."""
    rows = [(str(row["class_name"]), str(row["split"]), int(row["images"])) for row in _listed(details)]
    if not rows:
        return ""
    chart = charts.balance(rows, f"Images by class and split of {name}")
    return markup.figure(chart, "Class balance: a model learns what it sees often.", details.file)


def quarantined(found: Material, name: str) -> str:
    """What was kept out: images that could not be decoded, with the reason. Of a transfer set, where that stands."""
    file = f"manifest/{name}-rejected.csv"
    where = f"Images that could not be decoded are listed with the reason in {markup.code(found.folder.label(file))}."
    if name != found.sets.main:
        return markup.element("p", where, class_="note")
    rows = found.folder.table(file, ["member", "reason"])
    if rows is None:
        return markup.missing(found.folder.label(file))
    if not rows:
        return markup.element("p", f"Quarantine is empty: every image could be decoded. {where}", class_="note")
    told = [[markup.name(row["member"]), markup.text(row["reason"])] for row in rows[:NAMED]]
    more = "" if len(rows) <= NAMED else f" The first {NAMED} of {len(rows):,}."
    return markup.table(
        f"In quarantine: images that could not be decoded.{more}", ["File", "Why"], told, found.folder.label(file)
    )


def _listed(details: Record) -> list[dict[str, Any]]:
    """The gate's table of classes, if it lists one with the columns needed."""
    columns, rows = details.fact("tables.classes.columns"), details.fact("tables.classes.listed")
    if not columns or not rows or not {"class_name", "split", "images"} <= set(columns.value):
        return []
    return [dict(zip(columns.value, row, strict=False)) for row in rows.value if len(row) == len(columns.value)]
