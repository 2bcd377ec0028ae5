"""What data/metrics/<model>.json must hold before a page, a card or an export believes it."""

import json
import math
from typing import Any

WORDS = ("model", "set", "split")
COUNTS = ("images", "classes", "image_size", "parameters")
SHARES = ("top1", "top1_low", "top1_high", "top5", "top5_low", "top5_high", "mean_per_class", "ece")
ROUNDING = 1e-4  # shares have four decimals


def numbers(data: bytes) -> Any:
    """JSON whose numbers are numbers. Raises ValueError for NaN and Infinity, which JSON does not have and Python reads."""

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no number")

    return json.loads(data, parse_constant=refuse)


def problem(values: dict[str, Any], model: str) -> str:
    """What is wrong with a model's metrics, in a few words with its key; empty where nothing is."""
    for key in WORDS:
        if not isinstance(values.get(key), str):
            return f"has {values.get(key)!r} for {key}, where a name belongs"
    if values["model"] != model:
        return f"is about {values['model']}, not {model}"
    for key in COUNTS:
        if not _whole(values.get(key)):
            return f"has {values.get(key)!r} for {key}, where a whole number above 0 belongs"
    if "macs" in values and not _whole(values["macs"]):
        return f"has {values['macs']!r} for macs, where a whole number above 0 belongs"
    heads = values.get("heads")
    if not isinstance(heads, dict) or not heads:
        return f"has {heads!r} for heads, where accuracies by head belong"
    return next(filter(None, (_head(f"heads.{name}", head) for name, head in heads.items())), "")


def _head(where: str, head: Any) -> str:
    if not isinstance(head, dict) or not {"top1", "nll"} <= head.keys():
        return f"has {head!r} for {where}, where top1 and nll belong"
    for key, value in head.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            return f"has {value!r} for {where}.{key}, where a number belongs"
        if value < 0 or (key in SHARES and value > 100):
            return f"has {value!r} for {where}.{key}; allowed: {'0 to 100 per cent' if key in SHARES else '0 or more'}"
    for share in ("top1", "top5"):
        ends = [head[key] for key in (f"{share}_low", share, f"{share}_high") if key in head]
        if len(ends) == 3 and not ends[0] - ROUNDING <= ends[1] <= ends[2] + ROUNDING:
            return f"has {ends[0]} to {ends[2]} for the interval of {where}.{share}, which is {ends[1]}"
    return ""


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
