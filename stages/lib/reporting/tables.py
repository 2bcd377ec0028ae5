"""The page's tables of accuracies, and of the files behind the page."""

import math
from collections.abc import Sequence

from stages.lib.reporting import markup
from stages.lib.reporting.inputs import Record
from stages.lib.reporting.sources import ABSENT, Ledger

HEADS = {
    "class": "class head",
    "dist": "distillation head",
    "fused_logits": "both, mean logits",
    "fused_probs": "both, mean softmax",
}
SHARES = {
    "top1": "Top-1",
    "top5": "Top-5",
    "mean_per_class": "Class mean",
    "ece": "Calibration error",
}
TOPS = {"class": "Class head", "dist": "Distillation", "fused_logits": "Both"}
NO_SUCH_HEAD = '<span class="none" title="this model has no such head">' + markup.DASH + "</span>"
NORMAL_95 = 1.959964  # 95 % of a normal distribution lies within so many deviations
AGREEMENT = {
    "class_dist": "class and distillation",
    "class_fused_logits": "class and both",
    "dist_fused_logits": "distillation and both",
}


def answer(metrics: Record) -> str:
    """The head whose top-1 is the model's own: both together where it has two (what timm's eval mode gives)."""
    return "fused_logits" if metrics.fact("heads.fused_logits.top1") else "class"


def interval(percent: float, images: float) -> tuple[float, float]:
    """(low, high) of the 95 % interval, in percent, of a share measured on so many images (Wilson 1927, score interval)."""
    share, drift = percent / 100, NORMAL_95**2 / images
    middle, half = share + drift / 2, math.sqrt(drift * share * (1 - share) + drift * drift / 4)
    return 100 * (middle - half) / (1 + drift), 100 * (middle + half) / (1 + drift)


def measured(metrics: Record, head: str, images: float) -> tuple[float, float]:
    """(low, high) of a head's top-1 in percent: as measured, else, in metrics from before intervals were, Wilson's."""
    low, high = (metrics.number(f"heads.{head}.top1_{end}") for end in ("low", "high"))
    if low is None or high is None:
        return interval(metrics.number(f"heads.{head}.top1") or 0.0, images)
    return low, high


def heads(metrics: Record, ledger: Ledger) -> str:
    """A model's accuracy by head."""
    found = [head for head in HEADS if metrics.fact(f"heads.{head}")]
    shares = [name for name in SHARES if any(metrics.fact(f"heads.{head}.{name}") for head in found)]
    rows = [
        [
            HEADS[head] if len(found) > 1 else "only head",
            *(_share(metrics, ledger, f"heads.{head}.{name}") for name in shares),
            ledger.number(metrics.fact(f"heads.{head}.nll")),
        ]
        for head in found
    ]
    caption = "Accuracy by head, with its 95 % interval; NLL is the mean negative log-likelihood of the true class."
    return markup.table(caption, ["Head", *(SHARES[name] for name in shares), "NLL, nats"], rows, metrics.file)


def _share(metrics: Record, ledger: Ledger, key: str) -> str:
    """A share in percent, and below it the interval where one was measured."""
    low, high = metrics.fact(f"{key}_low"), metrics.fact(f"{key}_high")
    own = ledger.percent(metrics.fact(key))
    if low is None or high is None:
        return own
    return own + markup.element("small", f"{ledger.percent(low)} to {ledger.percent(high)}", class_="within")


def agreement(metrics: Record, ledger: Ledger) -> str:
    """How often two heads give the same answer; "" for a model with one head."""
    rows = [
        [title, ledger.percent(fact)]
        for name, title in AGREEMENT.items()
        if (fact := metrics.fact(f"agreement.{name}"))
    ]
    return (
        markup.table("How often two heads agree, right or wrong.", ["Heads", "Images"], rows, metrics.file)
        if rows
        else ""
    )


def side_by_side(models: Sequence[tuple[str, Record]], ledger: Ledger) -> str:
    """Every measured model, (title, metrics), a row each."""
    head = ["Model", *TOPS.values(), "95 % interval", "Set", "Images", "Pixels", "Parameters", "File"]
    rows = [_row(title, metrics, ledger) for title, metrics in models]
    caption = (
        "Top-1 of every model by head, in the order of the pipeline; the interval is that of the model's own answer."
    )
    return markup.table(caption, head, rows, class_="placed")


def _row(title: str, metrics: Record, ledger: Ledger) -> list[str]:
    where = " ".join(markup.name(fact.value) for key in ("set", "split") if (fact := metrics.fact(key)))
    sizes = [ledger.number(metrics.fact(key)) for key in ("images", "image_size", "parameters")]
    facts = [metrics.fact(f"heads.{head}.top1") for head in TOPS]
    tops = [ledger.percent(fact) if fact else NO_SUCH_HEAD for fact in facts]
    return [markup.name(title), *tops, spread(metrics, ledger), where or ABSENT, *sizes, markup.code(metrics.file)]


def spread(metrics: Record, ledger: Ledger) -> str:
    """The interval of the model's own answer as one number of the page."""
    top1, images = metrics.number(f"heads.{answer(metrics)}.top1"), metrics.number("images")
    if top1 is None or not 0 <= top1 <= 100 or not images or images < 0:
        return ABSENT
    low, high = (metrics.number(f"heads.{answer(metrics)}.top1_{end}") for end in ("low", "high"))
    how = f"heads.{answer(metrics)}.top1_low and top1_high, a bootstrap over images"
    if low is None or high is None:  # metrics from before intervals were measured
        low, high = interval(top1, images)
        how = f"Wilson interval of heads.{answer(metrics)}.top1 and images"
    return ledger.worked_out(f"{low:.1f} to {high:.1f} %", metrics.file, how)


def files(read: dict[str, tuple[int, str]]) -> str:
    """Every file the page was made of."""
    rows = [[markup.code(file), f"{size:,}", markup.code(sha256[:16])] for file, (size, sha256) in sorted(read.items())]
    return markup.table(
        "What this page was made of.", ["File", "Bytes", "sha256, first 16 digits"], rows, "the files themselves"
    )
