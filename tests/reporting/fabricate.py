"""A made-up `data` folder as the stages before `report` leave it: every number is invented, every format is theirs."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = [str(digit) for digit in range(7)]
PARAMS = """
sets: {main: digits-0-6, transfer: [digits-7-9]}
report: {title: From raw digits to a distilled transformer, worst_classes: 3}
"""


def whole(root: Path, params: str = PARAMS, classes: list[str] = CLASSES) -> Path:
    """Everything of a finished run under root/data, with root/params.yaml; returns root/data."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "params.yaml").write_text(params)
    data = root / "data"
    for number, model in enumerate(("teacher", "student", "finetuned")):
        mistakes_of(data, model, classes, wrong=6 - 2 * number)
        metrics(data, model, "digits-0-6", len(classes), heads=1 if model == "teacher" else 2, top1=96.7442 + number)
        history(data, model, epochs=15 if model == "teacher" else 30, distilled=model == "student")
    metrics(data, "transfer-digits-7-9", "digits-7-9", 3, heads=2, top1=98.1308)
    history(data, "transfer-digits-7-9", epochs=10)
    history(data, "mae", epochs=40, labelled=False)
    for name, rows, columns in (("digits-0-6", 6, 8), ("digits-7-9", 6, 8), ("mae", 3, 8), ("student", 4, 8)):
        picture(data / "samples" / f"{name}.png", rows, columns)
    for name in ("digits-0-6", "digits-7-9"):
        gate(data, f"manifest-{name}")
        gate(data, f"shards-{name}")
    stored(data, "digits-0-6", anew=1003)
    stored(data, "digits-7-9", anew=0)
    for name in ("teacher", "mae", "student", "finetuned"):
        gate(data, f"model-{name}")
    rejected(data, "digits-0-6", {"3/broken<1>.png": "cannot be decoded: truncated after 57 bytes"})
    agreement(data)
    probe(data, percents=(50, 75, 90))
    for model in ("teacher", "student", "finetuned"):
        reliability(data, model, heads=1 if model == "teacher" else 2)
        album(data, model, classes)
    for model in ("student", "finetuned"):
        tokens(data, model)
        picture(data / "samples" / f"{model}-attention.png", 12, 3)
    return data


def write_json(path: Path, values: Any) -> None:
    """As the stages write JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=1) + "\n")


def stored(data: Path, name: str, anew: int) -> None:
    """data/stored/<set>.json of a set with `anew` images made smaller."""
    smaller = {"short_side": 321, "quality": 91, "subsampling": "4:4:4"}
    values: dict[str, Any] = {"set": name, "store": smaller if anew else "original", "images": 1082}
    values |= {
        "images_stored_anew": anew,
        "original_bytes": 118_765_432,
        "stored_bytes": 58_765_431,
        "stored_share": 0.494803,
    }
    values |= {"lost": "JPEG and a smaller size" if anew else "nothing", "images_measured": 256 if anew else 0}
    if anew:
        values |= {"coding_psnr_db": {"mean": 40.71, "p5": 37.28}, "crop_psnr_db": {"mean": 36.19, "p5": 31.64}}
    write_json(data / "stored" / f"{name}.json", values)


def metrics(data: Path, model: str, set_name: str, classes: int, heads: int, top1: float) -> dict[str, Any]:
    """data/metrics/<model>.json; every number differs from every other, so that none can stand in for another."""

    def head(shift: float) -> dict[str, float]:
        five = round(99.5 + shift / 10, 4)
        many = {"top5": five, "top5_low": round(five - 1.2131, 4), "top5_high": round(five + 0.3117, 4)}
        return {
            "top1": round(top1 + shift, 4),
            "top1_low": round(top1 + shift - 2.7113, 4),
            "top1_high": round(top1 + shift + 0.9219, 4),
            "ece": round(1.7 + (100 - top1) / 7 + shift / 9, 4),
            **(many if classes > 5 else {}),
            "mean_per_class": round(top1 + shift - 0.3217, 4),
            "nll": round(0.1 + 0.05 * (100 - top1) / 3 - shift / 20, 6),
        }

    shifts = (
        {"class": 0.0}
        if heads == 1
        else {"class": -0.4651, "dist": -0.9302, "fused_logits": 0.0, "fused_probs": 0.1551}
    )
    values: dict[str, Any] = {
        "model": model,
        "set": set_name,
        "split": "val",
        "images": 215 if set_name == "digits-0-6" else 107,
        "classes": classes,
        "image_size": 24 if model == "finetuned" else 16,
        "macs": {"teacher": 1_234_567, "student": 8_765_433, "finetuned": 19_283_747}.get(model, 8_765_102),
        "parameters": {"teacher": 213_456, "student": 452_103, "finetuned": 454_119}.get(model, 451_001),
        "heads": {name: head(shift) for name, shift in shifts.items()},
    }
    if heads > 1:
        values["agreement"] = {"class_dist": 98.1395, "class_fused_logits": 99.0698, "dist_fused_logits": 98.6047}
    write_json(data / "metrics" / f"{model}.json", values)
    return values


def history(data: Path, model: str, epochs: int, distilled: bool = False, labelled: bool = True) -> None:
    """data/history/<model>.csv: a falling loss; validated every other epoch."""
    columns = ["epoch", "loss", "lr", *(["base", "distillation"] if distilled else []), "val_loss"]
    path = data / "history" / f"{model}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow([*columns, *(["val_top1"] if labelled else [])])
        for epoch in range(epochs):
            fall = math.exp(-6 * (epoch + 1) / epochs)
            wave = 0.03 * math.sin(2.3 * epoch)
            row: list[object] = [
                epoch,
                f"{0.4 + 1.5 * fall + wave:.9g}",
                f"{2e-3 * math.cos(1.5 * epoch / epochs):.9g}",
            ]
            row += [f"{0.5 + 1.4 * fall + wave:.9g}", f"{0.3 + 1.6 * fall + wave:.9g}"] if distilled else []
            seen = epoch % 2 == 1 or epoch == epochs - 1
            row.append(f"{0.11 + 1.7 * fall:.9g}" if seen else "")
            row += [f"{97.1 - 80 * fall:.9g}" if seen else ""] if labelled else []
            table.writerow(row)


def mistakes_of(data: Path, model: str, classes: list[str], wrong: int, images: int = 31) -> None:
    """data/plots/<model>-confusion.csv and -classes.csv: class i is taken for its neighbour `wrong - i` times."""
    pairs: list[tuple[object, ...]] = []
    rows: list[tuple[object, ...]] = []
    for number, actual in enumerate(classes):
        missed = max(0, wrong - number)
        pairs += [(actual, classes[(number + 1) % len(classes)])] * missed + [(actual, actual)] * (images - missed)
        rows.append((actual, images, f"{100 * (images - missed) / images:.4f}"))
    write_csv(data / "plots" / f"{model}-confusion.csv", ("actual", "predicted"), list(pairs))
    write_csv(data / "plots" / f"{model}-classes.csv", ("class", "images", "top1"), list(rows))


def picture(path: Path, rows: int, columns: int, size: int = 16) -> None:
    """A sheet of rings and bars on a white frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet = np.full((rows * (size + 1) + 1, columns * (size + 1) + 1, 3), 255, np.uint8)
    down, right = np.mgrid[:size, :size] - size / 2 + 0.5
    for place in range(rows * columns):
        ring = np.abs(np.hypot(down, right) - 2 - place % 5) < 1.2
        top, left = 1 + place // columns * (size + 1), 1 + place % columns * (size + 1)
        sheet[top : top + size, left : left + size] = np.where(ring[..., None], 240, 8 * (place % 7))
    Image.fromarray(sheet).save(path)


def gate(data: Path, name: str, passed: bool = True, classes: list[str] = CLASSES) -> dict[str, Any]:
    """data/gate-details/<gate>.json in the form stages.lib.data.expectations.judge gives."""
    kind, _, about = name.partition("-")
    facts: dict[str, Any] = {
        "manifest": {"set": about, "images": 1082, "train_images": 867, "val_images": 215, "test_images": 0}
        | {"listed_classes": len(classes), "train_class_ratio": 1.0317460317, "copies_inside_splits": 0},
        "shards": {"set": about, "images": 1082, "shards": 5, "bytes": 1_843_200},
        "model": {
            "model": about,
            "architecture": "vit_tiny",
            "parameters": 447_936,
            "loss_first": 1.9,
            "val_top1": None,
        },
    }[kind]
    unexpected = [] if passed else [{"key": "3/img<0042>", "split": "train", "offset": 17_920, "label": 9}]
    lines = [
        {
            "table": "images" if kind != "model" else "tensors",
            "type": "expect_column_values_to_be_between",
            "kwargs": {"column": "label", "min_value": 0, "max_value": 6},
            "why": "a label is a number of a class",
            "success": passed,
            "observed": "0 to 6" if passed else "0 to 9",
            "checked": 1082,
            "unexpected": len(unexpected),
            "rows": unexpected,
            "error": None,
        },
        {
            "table": "images",
            "type": "expect_compound_columns_to_be_unique",
            "kwargs": {"column_list": ["split", "key"]},
            "why": "",
            "success": True,
            "observed": None,
            "checked": None,
            "unexpected": None,
            "rows": [],
            "error": None,
        },
    ]
    seen = {"width": "8", "height": "8", "mode": "L 1,082 times", "format": "PNG 1,082 times", "bytes": "121 to 163"}
    listed = [[split, one, images, 0.1429] for one in classes for split, images in (("train", 124), ("val", 31))]
    values = {
        "gate": name,
        "about": f"What {kind} must be like",
        "passed": passed,
        "failed": int(not passed),
        "facts": facts,
        "expectations": lines,
        "tables": {
            "images": {
                "rows": 1082,
                "columns": {key: {"meaning": "", "observed": value} for key, value in seen.items()},
            },
            "classes": {"columns": {key: {} for key in ("split", "class_name", "images", "share")}, "listed": listed},
        },
    }
    write_json(data / "gate-details" / f"{name}.json", values)
    return values


def write_csv(path: Path, head: tuple[str, ...], rows: list[tuple[object, ...]]) -> None:
    """As the stages write CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(head)
        table.writerows(rows)


def rejected(data: Path, name: str, reasons: dict[str, str]) -> None:
    """data/manifest/<set>-rejected.csv."""
    write_csv(data / "manifest" / f"{name}-rejected.csv", ("member", "reason"), list(reasons.items()))


def agreement(data: Path) -> None:
    """data/metrics/agreement.json: percents of images on which two disagree, every one different."""
    pairs = [
        "teacher_class",
        "teacher_dist",
        "teacher_fused_logits",
        "teacher_label",
        "class_dist",
        "class_fused_logits",
    ]
    pairs += ["class_label", "dist_fused_logits", "dist_label", "fused_logits_label"]
    values: dict[str, Any] = {"set": "digits-0-6", "split": "val", "images": 215}
    for step, model in enumerate(("student", "finetuned")):
        values[model] = {pair: round(1.1163 + 0.4651 * place + 0.0517 * step, 4) for place, pair in enumerate(pairs)}
    write_json(data / "metrics" / "agreement.json", values)


def probe(data: Path, percents: tuple[int, ...]) -> None:
    """data/metrics/probe.json and a picture a mask ratio."""
    values: dict[str, Any] = {"set": "digits-0-6", "split": "val", "images": 215}
    values["knn"] = {"k": 19, "top1": 77.3812, "top1_low": 72.2219, "top1_high": 82.5401}
    values["linear"] = {"top1": 70.2377, "top1_low": 64.6829, "top1_high": 75.7941, "top5": 98.4131}
    values["linear"] |= {"mean_per_class": 70.0993, "ece": 17.7309, "nll": 1.360806}
    values["reconstruction"] = {str(percent): {"loss": round(0.4 + percent / 300, 6)} for percent in percents}
    write_json(data / "metrics" / "probe.json", values)
    for percent in percents:
        picture(data / "samples" / f"mae-{percent}.png", 3, 8)


def reliability(data: Path, model: str, heads: int) -> None:
    """data/plots/<model>-reliability.csv: five bins, the lowest without an image."""
    rows: list[tuple[object, ...]] = []
    for number, head in enumerate(["class", "dist", "fused_logits", "fused_probs"][: 4 if heads > 1 else 1]):
        rows.append((head, 0.0, 0.2, 0, "", ""))
        for place, images in enumerate((3, 12, 40, 160), 1):
            said = 0.2 * place + 0.11
            rows.append((head, 0.2 * place, 0.2 * (place + 1), images, f"{said:.6f}", f"{said - 0.03 * number:.6f}"))
    write_csv(
        data / "plots" / f"{model}-reliability.csv", ("head", "low", "high", "images", "confidence", "accuracy"), rows
    )


def album(data: Path, model: str, classes: list[str]) -> None:
    """data/plots/<model>-images.csv and its tiles: 12 best, 3 worst, 12 of a sample."""
    rows: list[tuple[object, ...]] = []
    for place, kind in enumerate(["best"] * 12 + ["worst"] * 3 + ["sample"] * 12):
        actual = classes[place % len(classes)]
        said = classes[(place + (kind == "worst")) % len(classes)]
        sure = 0.999 - 0.011 * place
        nll = 3.5 + place / 10 if kind == "worst" else -math.log(sure)
        rows.append((kind, place, f"{actual}/{place:04d}", actual, said, f"{sure:.6f}", f"{nll:.6f}"))
    head = ("kind", "place", "key", "actual", "predicted", "probability", "nll")
    write_csv(data / "plots" / f"{model}-images.csv", head, rows)
    sheet = np.zeros((3 * 16, 12 * 16, 3), np.uint8)
    for place in range(len(rows)):
        sheet[place // 12 * 16 : place // 12 * 16 + 16, place % 12 * 16 : place % 12 * 16 + 16] = 9 * place
    Image.fromarray(sheet).save(data / "samples" / f"{model}-images.png")


def tokens(data: Path, model: str) -> None:
    """data/plots/<model>-tokens.csv: two tokens that grow alike over four blocks."""
    rows: list[tuple[object, ...]] = [
        (layer, f"{0.06 + 0.2 * layer:.6f}", f"{0.02 + 0.19 * layer:.6f}", f"{0.1 + 0.21 * layer:.6f}")
        for layer in range(5)
    ]
    write_csv(data / "plots" / f"{model}-tokens.csv", ("layer", "cosine", "low", "high"), rows)
