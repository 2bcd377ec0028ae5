"""The live page as HTML: what runs, what is stale, what was taken and predicted. It holds a clock, so DVC never keeps it."""

import base64
import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stages.lib.reporting import live_plot, markup, style
from stages.lib.reporting.live_runs import Ended, Found, Run, number

SILENT_SECONDS = 180.0
WORDS = {
    "fresh": ("✓ fresh", "good"),
    "stale": ("stale", "bad"),
    "after": ("comes after", "muted"),
    "never": ("never run", "muted"),
    "always": ("runs every time", "muted"),
}
MEANING = {
    "fresh": "nothing to do",
    "stale": "what it depends on has changed",
    "after": "as recorded, but it comes after a stage that is not: it may turn out to have nothing to do",
    "never": "dvc.lock does not know it",
    "always": "looks at the raw images whenever it is asked",
}
RULES = """
.cards{display:grid;gap:.8rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,24rem),1fr));margin:1rem 0}
.card{border:1px solid var(--line);border-top:3px solid var(--student);border-radius:8px;
background:var(--panel);padding:.7rem .9rem}
.card h3{margin:0 0 .3rem;display:flex;justify-content:space-between;gap:1rem;flex-wrap:wrap}
.card h3 span{font-weight:400;font-variant-numeric:tabular-nums}
.card p{margin:.3rem 0;font-size:.88rem;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
progress{width:100%;height:.7rem;accent-color:var(--student)}
.tile strong{font-size:1.5rem;line-height:1.3;font-variant-numeric:tabular-nums}
.stages td,.stages th{white-space:nowrap;padding-right:1.2rem}
.changed{white-space:normal;min-width:16rem;font-size:.82rem;overflow-wrap:anywhere}
.stages details{white-space:normal;max-width:24rem}
.trouble{border-left:3px solid var(--bad);padding:.1rem .8rem;margin:1rem 0}
.trouble li{overflow-wrap:anywhere}
#gone{position:sticky;top:0;margin:0;max-width:none;padding:.4rem 1.25rem;background:var(--bad);
color:var(--paper);white-space:normal}
[hidden]{display:none!important}
.points text{font-size:11px;fill:currentColor}.points .axis{stroke:var(--muted)}.points .grid{stroke:var(--line)}
.points circle{fill:var(--student)}.points svg{max-width:36rem;width:100%;height:auto}
"""
SCRIPT = """
'use strict';
const whole = document.getElementById('now'), gone = document.getElementById('gone');
setInterval(async () => {
  if (document.hidden || String(document.getSelection())) return;
  try {
    const answer = await fetch('/now');
    if (!answer.ok) throw new Error();
    const text = await answer.text(), wide = [...document.querySelectorAll('.wide')].map(one => one.scrollLeft);
    const open = [...document.querySelectorAll('details')].map(one => one.open);
    whole.innerHTML = text;
    document.querySelectorAll('.wide').forEach((one, at) => { one.scrollLeft = wide[at] || 0; });
    document.querySelectorAll('details').forEach((one, at) => { one.open = Boolean(open[at]); });
    gone.hidden = true;
  } catch { gone.hidden = false; }
}, 3000);
"""
STYLES = style.sheet() + RULES


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


POLICY = (
    f"default-src 'none'; script-src {_hash(SCRIPT)}; style-src {_hash(STYLES)}; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'"
)
"""Of the page: nothing from elsewhere, no script but its own."""


@dataclass(frozen=True)
class Now:
    """All that the page says."""

    at: float
    """Seconds since the epoch."""
    host: str
    found: Found
    cache: Mapping[str, Any]
    """What stages/lib/reporting/live_cache.py prints; {} before it has."""
    cache_at: float
    """When that was."""
    working: frozenset[str]
    """Stages whose outs DVC is having written, by its own account."""
    metrics: Mapping[str, Mapping[str, Any]]
    """data/metrics, by model."""
    price: float
    """system.price_per_gpu_hour; 0: unknown."""
    report: str | None
    """Where the report is, as a link; None where there is none."""

    @property
    def stages(self) -> list[Mapping[str, Any]]:
        """As DVC has them, upstream first."""
        return list(self.cache.get("stages", []))

    @property
    def running(self) -> list[str]:
        """Names of stages at work."""
        held = [name for name, run in self.found.runs.items() if run.holder]
        return sorted(self.working | set(held))


def document(now: Now, live: bool) -> str:
    """The whole page. live: it asks for itself again; else it is a file that never changes."""
    policy = POLICY if live else f"default-src 'none'; style-src {_hash(STYLES)}; img-src data:"
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"><link rel="icon" href="data:,">'
        f"<title>Tutelage, now</title><style>{STYLES}</style>"
        + ('<noscript><meta http-equiv="refresh" content="5"></noscript>' if live else "")
    )
    gone = (
        '<p id="gone" role="alert" hidden>The server has ended; what stands here is as it was then.</p>' if live else ""
    )
    script = f"<script>{SCRIPT}</script>" if live else ""
    content = f'{gone}<div id="now">{body(now)}</div>{script}'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{content}</body></html>\n'


def body(now: Now) -> str:
    """What changes."""
    parts = (at_work(now), stages(now), costs(now), throughput(now), trouble(now))
    return header(now) + markup.element("main", "".join(parts)) + markup.element("footer", FOOTER)


FOOTER = markup.paragraph(
    "Made by <code>python -m stages.report --live</code>. Times come from run folders, states from dvc.lock and what it is "
    "compared with; no lock of DVC's is taken. Results stand in the report, which holds no clock."
)


def header(now: Now) -> str:
    """Title, the state in a sentence, when and where."""
    running = now.running
    words = [f"{', '.join(map(markup.name, running))} at work now." if running else "Nothing runs now."]
    if now.stages:
        count = {state: sum(one["state"] == state for one in now.stages) for state in WORDS}
        fresh = count["fresh"] + count["always"]
        words.append(f"{fresh} of {len(now.stages)} stages have nothing to do")
        rest = [
            f"{count[state]} {word}"
            for state, word in (("stale", "stale"), ("after", "after those"), ("never", "never run"))
        ]
        words[-1] += f" ({', '.join(word for word in rest if word[0] != '0')})." if fresh < len(now.stages) else "."
    where = f"{clock(now.at)} on {now.host}; run folders in {now.found.root}, {now.found.bytes / 1e9:.2f} GB."
    link = (
        markup.paragraph(markup.element("a", "The report: what came out", href=now.report))
        if now.report
        else markup.absent("No report yet: <code>dvc repro report</code> makes it.")
    )
    lead = markup.element("p", " ".join(words), class_="lead")
    return markup.element(
        "header", markup.element("h1", "Tutelage, now") + lead + markup.paragraph(markup.text(where)) + link
    )


def at_work(now: Now) -> str:
    """A card for each stage that runs."""
    if not now.running:
        return markup.section(
            "running", "At work", markup.absent("Nothing. <code>dvc repro</code> starts what is stale.")
        )
    cards = [card(name, now.found.runs.get(name), now) for name in now.running]
    return markup.section("running", "At work", markup.grid(cards, "cards"))


def card(name: str, run: Run | None, now: Now) -> str:
    """How far a stage is."""
    if run is None or not run.holder:  # ingests, evaluates, exports: they keep no run folder
        return markup.element(
            "div", markup.element("h3", markup.name(name)) + markup.paragraph("DVC runs it."), class_="card"
        )
    left = f"{duration(run.seconds_left)} left" if run.seconds_left is not None else "time left unknown"
    title = markup.element("h3", markup.name(name) + markup.element("span", left))
    bar = ""
    if run.steps:
        share = min(1.0, (run.step or 0) / run.steps)
        bar = markup.element(
            "progress", f"{share:.0%}", max=1, value=f"{share:.4f}", aria_label=f"{name}: {share:.0%} done"
        )
    words = [f"step {run.step or 0:,.0f}" + (f" of {run.steps:,.0f}" if run.steps else "")]
    for key, form in RATES:
        if key in run.numbers:
            words.append(form(run.numbers[key]))
    took = [f"{run.seconds and duration(run.seconds)} up to its last checkpoint"] if run.seconds else []
    silent = max(0.0, now.at - run.changed)
    alive = f"last sign of life {duration(silent)} ago" if silent > 5 else "alive"
    words_of_life = markup.element("span", markup.text(alive), class_="bad" if silent > SILENT_SECONDS else None)
    about = markup.text("; ".join([run.holder, *took])) + "; " + words_of_life
    return markup.element(
        "div", title + bar + markup.paragraph(markup.text(" · ".join(words))) + markup.paragraph(about), class_="card"
    )


RATES = (
    ("loss", lambda value: f"loss {value:.4g}"),
    ("images_per_second", lambda value: f"{value:,.0f} images/s"),
    ("waiting_share", lambda value: f"{value:.0%} of the time waiting for data"),
    ("mfu", lambda value: f"MFU {value:.0%}"),
    ("peak_bytes", lambda value: f"{value / 1e9:.1f} GB"),
)


def stages(now: Now) -> str:
    """Every stage: state, what changed, when and how it ended, what it took and what was predicted."""
    if error := now.cache.get("error"):
        return markup.section(
            "stages",
            "Stages",
            markup.absent(
                f"DVC cannot tell: {markup.text(error)}. <code>make check</code> says what is wrong with params.yaml."
            ),
        )
    if not now.stages:
        return markup.section("stages", "Stages", markup.absent("DVC is being asked; it takes a few seconds."))
    rows = [row(one, now) for one in now.stages]
    shown = [at for at, title in enumerate(HEAD) if title in ALWAYS or any(cells[at] != markup.DASH for cells in rows)]
    caption = (
        f"As of {markup.text(clock(now.cache_at))}. Taken: up to the end of training, in the newest run folder; stages that do not "
        "train keep no time. Predicted: by <code>make preflight</code>. GPU-h: a rough price of the stage in "
        "presets/imagenet-deit-base.yaml on one H200 (<code>meta.gpu_hours</code> of dvc.yaml), whatever params.yaml says."
    )
    meaning = "; ".join(f"{WORDS[state][0].removeprefix('✓ ')}: {words}" for state, words in MEANING.items())
    note = markup.element("p", markup.text(f"{meaning[0].upper()}{meaning[1:]}."), class_="note")
    table = markup.table(
        caption, [HEAD[at] for at in shown], [[cells[at] for at in shown] for cells in rows], class_="stages"
    )
    return markup.section("stages", "Stages", table + note)


HEAD = ("stage", "state", "last end", "taken", "predicted", "taken / predicted", "GPU-h, ImageNet", "what changed")
ALWAYS = HEAD[:3]
"""Columns that stand there even if nothing is in them."""


def row(one: Mapping[str, Any], now: Now) -> list[str]:
    """Cells of a stage."""
    name = str(one["name"])
    run, forecast = now.found.runs.get(name), now.found.preflight.get(name, {})
    word, colour = WORDS.get(str(one["state"]), (str(one["state"]), "muted"))
    state = markup.element(
        "span", "at work" if name in now.running else word, class_=None if name in now.running else colour
    )
    hours, taken = number(forecast.get("hours")), run.seconds if run else None
    predicted = duration(3600 * hours) if hours is not None else str(forecast.get("status", "")) or markup.DASH
    ratio = f"{taken / 3600 / hours:.2f}" if taken and hours and run and run.done else markup.DASH
    return [
        markup.name(name),
        state,
        ending(now.found.ended.get(name), now.at),
        markup.text(duration(taken) + ("" if run and run.done else ", not done")) if taken else markup.DASH,
        markup.text(predicted),
        ratio,
        f"{one['gpu_hours']:g}" if one["gpu_hours"] else markup.DASH,
        changes(one["changed"]),
    ]


def changes(names: Sequence[str]) -> str:
    """The first few, the rest folded."""
    if not names:
        return markup.DASH
    first = ", ".join(map(markup.code, names[:3]))
    more = markup.element(
        "details", markup.element("summary", f"{len(names) - 3} more") + ", ".join(map(markup.code, names[3:]))
    )
    return markup.element("div", first + (more if names[3:] else ""), class_="changed")


def ending(ended: Ended | None, at: float) -> str:
    """When and how a stage ended; the day where it was not today."""
    if ended is None:
        return markup.DASH
    day, hour = clock(ended.when)[:10], clock(ended.when)[11:19]
    when = hour if clock(at).startswith(day) else f"{day} {hour}"
    if ended.code == 0:
        return markup.text(when)
    why = f"{when}: code {ended.code}"
    reason = markup.element("details", markup.element("summary", "why") + markup.text(ended.reason))
    return markup.element("span", markup.text(why), class_="bad") + reason


def costs(now: Now) -> str:
    """What was spent, what was predicted, what is still to come."""
    runs = list(now.found.runs.values())
    taken = sum(run.seconds or 0 for run in runs)
    on_gpus = sum((run.seconds or 0) * (run.gpus or 0) for run in runs) / 3600
    forecasts = [hours for one in now.found.preflight.values() if (hours := number(one.get("hours"))) is not None]
    money = [cost for one in now.found.preflight.values() if (cost := number(one.get("cost"))) is not None]
    todo = sum(one["gpu_hours"] for one in now.stages if one["state"] in ("stale", "never"))
    maybe = sum(one["gpu_hours"] for one in now.stages if one["state"] == "after")
    tiles = [
        tile("taken", duration(taken), f"newest run folder of {len(runs)} stages that train"),
        tile("GPU-hours of that", f"{on_gpus:.3g}", "seconds times GPUs; 0 on a CPU"),
    ]
    if now.price:
        tiles.append(
            tile("that cost", f"{on_gpus * now.price:,.2f}", f"at {now.price:g} a GPU-hour (system.price_per_gpu_hour)")
        )
    if forecasts:
        about = f"of {len(forecasts)} stages, by make preflight" + (f"; cost {sum(money):,.2f}" if money else "")
        tiles.append(tile("predicted", duration(3600 * sum(forecasts)), about))
    if now.stages:
        more = f", and up to {maybe:g} that come after" if maybe else ""
        tiles.append(
            tile(
                "to do, at ImageNet's size",
                f"{todo:g} GPU-h",
                f"of stale and never run stages{more}; by dvc.yaml's meta",
            )
        )
    return markup.section("cost", "Time and cost", markup.grid(tiles, "tiles"))


def tile(title: str, value: str, about: str) -> str:
    """A number with what it is."""
    return markup.element(
        "div",
        markup.element("b", markup.text(title))
        + markup.element("strong", markup.text(value))
        + markup.element("small", markup.text(about)),
        class_="tile",
    )


def throughput(now: Now) -> str:
    """Accuracy against throughput, of models that have both."""
    title = "Accuracy against throughput"
    points = live_plot.points(now.found.throughput, now.metrics)
    if not points:
        return markup.section(
            "throughput",
            title,
            markup.absent("Absent: <code>python -m stages.throughput</code> measures exported models."),
        )
    rows = [
        [
            markup.name(point.model),
            f"{point.images_per_second:,.0f}",
            markup.text(point.how) or markup.DASH,
            "not measured" if point.top1 is None else f"{point.top1:.2f}",
        ]
        for point in points
    ]
    caption = (
        "The fastest of each model's measurements on the machine that its file names; accuracy as data/metrics has it."
    )
    drawn = [point for point in points if point.top1 is not None]
    picture = markup.element("figure", live_plot.picture(drawn), class_="points") if drawn else ""
    table = markup.table(caption, ("model", "images/s", "measured with", "top-1 %"), rows)
    return markup.section("throughput", title, picture + table)


def trouble(now: Now) -> str:
    """What could not be read."""
    if not now.found.trouble:
        return ""
    items = "".join(markup.element("li", markup.text(one)) for one in now.found.trouble[:30])
    rest = len(now.found.trouble) - 30
    more = markup.paragraph(f"And {rest} more.") if rest > 0 else ""
    intro = markup.paragraph("Left out above. A file that a stage is writing just now is read again in a moment.")
    return markup.section(
        "trouble",
        "What could not be read",
        markup.element("div", intro + markup.element("ul", items) + more, class_="trouble"),
    )


def clock(at: float) -> str:
    """Local time, with its zone."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(at))
    except (OverflowError, ValueError, OSError):
        return "at no time there is"


def duration(seconds: float | None) -> str:
    """In the two largest units that fit."""
    if seconds is None or not math.isfinite(seconds):
        return "unknown"
    whole = max(0, round(seconds))
    parts = _units(whole)
    return " ".join(parts[:2]) or "0 s"


def _units(whole: int) -> list[str]:
    found: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, whole = divmod(whole, size)
        if count or found:
            found.append(f"{count} {unit}")
    return found
