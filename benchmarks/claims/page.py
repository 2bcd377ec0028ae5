"""docs/claims.md: every claim with its source, what was run here, the numbers, and a verdict computed from them."""

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks.claims import collect, results, verdict
from benchmarks.claims.claims import CLAIMS, EFFICIENCY, HEAD, KINDS, SUBSETS
from benchmarks.claims.elsewhere import ELSEWHERE
from benchmarks.claims.recipes import Claim, Contrast
from benchmarks.claims.verdict import Difference, Interval

OPENING = """# What the papers claim, and what is measured here

Written by `python -m benchmarks.claims table` from the texts in `benchmarks/claims/` and the results in `docs/claims/*.json`; a
test compares. **These are runs of a minute or two on one CPU core, with models of under a million weights and at most ten thousand
small images.** The papers trained models a hundred times larger for hundreds of epochs of ImageNet. A claim that holds here holds
at this scale; one that does not, or that cannot be told from chance, says little about ImageNet. Sizes and epochs were chosen by
speed and, before any student was trained, by the teacher's accuracy; no recipe was changed after its first result.

```sh
python -m benchmarks.claims data <cifar10.tar.gz> --folder <F>   # CIFAR-10 as JPEGs: train/<class>/*.jpg, test/<class>/*.jpg
python -m benchmarks.claims run <claim> --folder <F>             # dvc repro, one cache; a finished run is not run again
python -m benchmarks.claims table
```

To run a claim anew, remove its `docs/claims/<claim>.json` first. `transfer` wants Stanford Cars as published, or some of it,
under `<F>/raw/cars-10` (`cars_train/*.jpg`, `devkit/*.mat`).

**Verdicts** are computed. A difference is paired: the same seeds, the same test images. Two 95 % intervals are taken, a t interval
over seeds and a normal one over images (of each image's difference, averaged over seeds). *Holds*: both lie above 0; *does not
hold*: both lie below; *not distinguishable*: anything else, and everything with a single seed. They are not corrected for the
number of rows: of twenty rows without any effect one may look like one. Top-1 is in percent of the test images; ± is the standard
deviation over seeds."""


def text() -> str:
    """The whole page."""
    parts = [OPENING, "## Summary", *_summary()]
    for claim in CLAIMS.values():
        parts += _section(claim)
    parts += ["## Measured elsewhere, or not", *_elsewhere()]
    return "\n\n".join(parts) + "\n"


def _summary() -> Iterator[str]:
    rows = ["| | claim | difference | seeds | verdict |", "|---|---|---|---|---|"]
    for claim in CLAIMS.values():
        runs = results.read(claim.name)["runs"]
        for contrast in claim.contrasts:
            found = difference(runs, contrast)
            said = f"{found.seeds} | {found.verdict}" if found else "0 | not measured"
            rows.append(f"| [{claim.name}](#{claim.name}) | {contrast.says} | {_mean(found)} | {said} |")
    yield "\n".join(rows)


def _section(claim: Claim) -> Iterator[str]:
    runs = results.read(claim.name)["runs"]
    yield f'<a id="{claim.name}"></a>\n\n## {claim.title}'
    yield f"**Published.** {claim.source}."
    yield f"**Here.** {claim.scale}. `python -m benchmarks.claims run {claim.name} --folder <F>`{_where(runs)}"
    if not runs:
        yield "Not measured yet."
        return
    yield "\n".join(_recipes(claim, runs))
    yield "\n".join(_contrasts(claim, runs))
    if apart := _disagreements(runs):
        yield apart
    if layers := _cosines(runs):
        yield layers
    if claim is EFFICIENCY:
        yield "\n".join(_curve(runs))
    reasons = [
        f"*{contrast.says}*, {found.verdict}: {reason}"
        for contrast in claim.contrasts
        if (reason := claim.reasons.get(contrast.says))
        and (found := difference(runs, contrast))
        and found.verdict != "holds"
    ]
    yield from reasons


def _where(runs: Sequence[dict[str, Any]]) -> str:
    if not runs:
        return "."
    machines = sorted({run["machine"] for run in runs})
    stages = sorted({run["stages"][:12] for run in runs})
    return f"; {runs[0]['images']:,} test images. {'; '.join(machines)}. Stages of git tree {', '.join(stages)}."


def _recipes(claim: Claim, runs: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield "| recipe | seeds | class head | distillation head | both fused | validation less training loss |"
    yield "|---|---|---|---|---|---|"
    for variant in claim.variants:
        mine = [run for run in runs if run["variant"] == variant.name]
        if not mine:
            yield f"| {variant.name} | not measured | | | | |"
            continue
        seeds = ", ".join(str(run["seed"]) for run in mine)
        cells = [
            _spread([run["heads"][head]["top1"] for run in mine]) if head in mine[0]["heads"] else "-"
            for head in collect.HEADS
        ]
        yield f"| {variant.name} | {seeds} | {' | '.join(cells)} | {_spread([run['numbers']['gap'] for run in mine])} |"


def _contrasts(claim: Claim, runs: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield "| claim | difference | over seeds | over images | verdict |"
    yield "|---|---|---|---|---|"
    for contrast in claim.contrasts:
        found = difference(runs, contrast)
        if found is None:
            yield f"| {contrast.says} | | | | not measured |"
            continue
        yield (
            f"| {contrast.says} | {_mean(found)} | {_interval(found.over_seeds)} | {_interval(found.over_images)} | "
            f"{found.verdict} |"
        )


def _curve(runs: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Top-1 by share of the training images, with the t interval over seeds."""
    yield f"| training images | {' | '.join(KINDS)} |"
    yield f"|---|{'---|' * len(KINDS)}"
    for subset in SUBSETS:
        cells = [
            _estimate([run["heads"][HEAD[kind]]["top1"] for run in runs if run["variant"] == f"{kind}-{subset}"])
            for kind in KINDS
        ]
        yield f"| {subset} % | {' | '.join(cells)} |"


def _estimate(values: Sequence[float]) -> str:
    """Mean and 95 % t interval over seeds."""
    if not values:
        return "not measured"
    interval = verdict.over_seeds(np.array(values))
    return f"{statistics.mean(values):.2f}" + (f" ({interval[0]:.2f} to {interval[1]:.2f})" if interval else "")


def _disagreements(runs: Sequence[dict[str, Any]]) -> str:
    """How often each head's answer is another than the teacher's, where a claim asks the teacher."""
    asked = [run for run in runs if run["variant"] in ("none", "soft", "hard") and "teacher_top1" in run["numbers"]]
    if not asked:
        return ""
    found = []
    for variant, head in sorted({(run["variant"], head) for run in asked for head in run["heads"]}):
        values = [run["numbers"][f"{head}_teacher"] for run in asked if run["variant"] == variant]
        found.append(f"{variant} {head} {statistics.mean(values):.2f}")
    return (
        f"The teacher is right on {asked[0]['numbers']['teacher_top1']:.2f} % of the test images. Percent on which a head says "
        f"something else than the teacher, mean over seeds: {', '.join(found)}. DeiT Table 4, in percent: no distillation 13.3, "
        "class 11.2, distillation 10.0, both 10.2."
    )


def _cosines(runs: Sequence[dict[str, Any]]) -> str:
    """The two tokens by layer, where a claim looks at them: only the hard student's."""
    mine = [run["numbers"] for run in runs if run["variant"] == "hard" and "cosine_input" in run["numbers"]]
    if not mine:
        return ""
    layers = [key for key in mine[0] if key.removeprefix("cosine_").isdigit()]
    values = [f"{np.mean([numbers[key] for numbers in mine]):.2f}" for key in layers]
    return (
        "Cosine of class and distillation token of the hard student, at the input and after each block, mean over seeds: "
        f"{', '.join(values)}. DeiT section 4: 0.06 at the input, 0.93 at the last layer of 12."
    )


def _elsewhere() -> Iterator[str]:
    rows = ["| claim | source | here | command |", "|---|---|---|---|"]
    rows += [f"| {one.claim} | {one.source} | {one.here} | {one.command} |" for one in ELSEWHERE]
    yield "\n".join(rows)


def difference(runs: Sequence[dict[str, Any]], contrast: Contrast) -> Difference | None:
    """Over the seeds that both sides have; None where there is none."""
    sides = [
        {run["seed"]: run for run in runs if run["variant"] == variant}
        for variant in (contrast.higher[0], contrast.lower[0])
    ]
    seeds = sorted(sides[0].keys() & sides[1].keys())
    if not seeds:
        return None
    pairs = [(sides[0][seed], sides[1][seed]) for seed in seeds]
    if contrast.higher[1] in collect.HEADS:
        first, second = (
            [collect.unpacked(pair[side]["heads"][number]["right"], pair[side]["images"]) for pair in pairs]
            for side, number in enumerate((contrast.higher[1], contrast.lower[1]))
        )
        return verdict.of_images(first, second)
    return verdict.of_numbers(
        [pair[0]["numbers"][contrast.higher[1]] for pair in pairs],
        [pair[1]["numbers"][contrast.lower[1]] for pair in pairs],
    )


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")


def _mean(found: Difference | None) -> str:
    return "" if found is None else f"{found.mean:+.2f}"


def _interval(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval[0]:+.2f} to {interval[1]:+.2f}"
