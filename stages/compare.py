"""Is the difference between two runs noise? Answers image by image, paired. No DVC stage: nothing is written.

in    data/predictions/<model>.parquet and data/metrics/<model>.json of every run that is named
run   python -m stages.report compare A B [--model student] [--head class|dist|fused_logits|fused_probs]

A and B are each a git revision or branch, a DVC experiment, `workspace`, or a folder that holds predictions/ and metrics/; or
several of them with commas between, which are then the seeds of one recipe.
"""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from stages.lib.core import load, outcome
from stages.lib.core.outcome import Refusal
from stages.lib.data import predictions
from stages.lib.data.predictions import Predictions
from stages.lib.ingestion import dvc_cache
from stages.lib.reporting import measured, noise
from stages.lib.reporting.noise import Side

USE = "use: python -m stages.report compare A B [--model student] [--head class|dist|fused_logits|fused_probs]"
WORKSPACE = "workspace"
OPTIONS = {"--model": "student", "--head": predictions.OWN}


def main() -> None:
    """Print. Raises Refusal where a run cannot be found, is stale, or was measured on other images."""
    names, options = arguments(sys.argv[1:])
    model, head = options["--model"], options["--head"]
    runs = [[(run, predicted(run, model)) for run in side.split(",")] for side in names]
    first = runs[0][0][1]
    for _, found in (*runs[0], *runs[1]):
        predictions.must_share(first, found)
    a, b = (of(side, head) for side in runs)
    what = "the model's own answer" if head == predictions.OWN else f"head {head}"
    where = f"{first.split} images of {first.set_name}" if first.set_name else "images"
    sys.stdout.write(f"{model}, {what}, on the same {len(first.keys):,} {where}\n\n{noise.table(a, b)}")


def arguments(words: list[str]) -> tuple[list[str], dict[str, str]]:
    """([A, B], options). Raises Refusal."""
    names, options, left = [], dict(OPTIONS), list(words)
    while left:
        word = left.pop(0)
        if word in OPTIONS and left:
            options[word] = left.pop(0)
        elif word.startswith("-"):
            raise Refusal(f"unknown or incomplete argument {word!r}; {USE}")
        else:
            names.append(word)
    if len(names) != 2 or not all(run for side in names for run in side.split(",")):
        raise Refusal(f"two sides belong here, {len(names)} were given; {USE}")
    if (head := options["--head"]) not in (*predictions.HEADS, predictions.OWN):
        raise Refusal(f"--head {head!r} is none of {', '.join(predictions.HEADS)}; {USE}")
    return names, options


def of(side: list[tuple[str, Predictions]], head: str) -> Side:
    """Which images each run of a side gets right. Raises Refusal where a run has no such head."""
    for run, found in side:
        if head not in found.heads:
            known = ", ".join(name for name in found.heads if name != predictions.OWN)
            raise Refusal(f"{found.path} of {run} has no head {head!r}; it has {known}.")
    return noise.side([run for run, _ in side], [np.asarray(found.right(head)) for _, found in side])


def predicted(run: str, model: str) -> Predictions:
    """The predictions of a run, held against its metrics. Raises Refusal."""
    folder = Path("data") if run == WORKSPACE else Path(run)
    names = (f"predictions/{model}.parquet", f"metrics/{model}.json")
    if folder.is_dir():
        folder = folder if (folder / "predictions").is_dir() else folder / "data"
        answers, numbers = (folder / name for name in names)
    else:
        answers, numbers = cached(run, tuple(f"data/{name}" for name in names))
    found = predictions.read(answers)
    found = found if folder.is_dir() else dataclasses.replace(found, path=Path(f"{run}:data/{names[0]}"))
    if numbers.is_file() and (wrong := contradicted(found, numbers, model)):
        raise Refusal(
            f"{run}: the metrics of {model} and its predictions are not of one measurement, so one of them is stale: {wrong}. "
            f"`dvc repro evaluate@{model}` there measures what is there now."
        )
    return found


def contradicted(found: Predictions, path: Path, model: str) -> str:
    """What is wrong with metrics beside these predictions; empty where nothing is."""
    try:
        values: Any = measured.numbers(path.read_bytes())
    except ValueError as error:
        return f"{path} is not JSON ({error})"
    if not isinstance(values, dict):
        return f"{path} holds no JSON object"
    return measured.problem(values, model) or predictions.contradiction(found, values)


def cached(run: str, names: tuple[str, ...]) -> tuple[Path, ...]:
    """Places in DVC's cache of outs as a revision's dvc.lock names them. Raises Refusal where one is not there."""
    lock = load.parse(git("show", f"{commit_of(run)}:dvc.lock") or "{}") or {}
    stages = lock.get("stages", {}).values()
    outs = {out["path"]: out.get("md5", "") for stage in stages for out in stage.get("outs", [])}
    return tuple(place(run, name, outs) for name in names)


def place(run: str, name: str, outs: dict[str, str]) -> Path:
    """One of them; compared with its digest."""
    if not (md5 := outs.get(name)):
        raise Refusal(f"{run} has no {name} in its dvc.lock: it was not measured there, or dvc.lock was not committed.")
    caches = dvc_cache.folders()
    for path in (dvc_cache.place(cache, md5) for cache in caches):
        if path.is_file() and dvc_cache.md5(path) == md5:
            return path
    looked = ", ".join(str(cache) for cache in caches) or "no cache here"
    raise Refusal(
        f"{name} of {run} (md5 {md5}) is not in DVC's cache ({looked}), or damaged there. `dvc get . {name} --rev {run} -o "
        f"<folder>/{Path(name).relative_to('data')}` brings it from the remote; then name the folder instead of {run}."
    )


def commit_of(run: str) -> str:
    """Of a git revision, or of a DVC experiment by its name. Raises Refusal where there is none, or several."""
    if found := git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{run}^{{commit}}"):
        return found.strip()
    lines = [
        line.split(" ") for line in git("for-each-ref", "--format=%(refname) %(objectname)", "refs/exps").splitlines()
    ]
    found_refs = [commit for ref, commit in lines if len(ref.split("/")) == 5 and ref.split("/")[4] == run]
    if len(found_refs) == 1:
        return found_refs[0]
    if found_refs:
        raise Refusal(
            f"{len(found_refs)} experiments are called {run}; name one by its commit: {', '.join(found_refs)}."
        )
    known = sorted({ref.split("/")[4] for ref, _ in lines if len(ref.split("/")) == 5})
    raise Refusal(
        f"{run!r} is no folder, git revision or DVC experiment here. `{WORKSPACE}` is what lies in data/ now; experiments: "
        f"{', '.join(known) or 'none'}."
    )


def git(*words: str) -> str:
    """What git says; empty where it fails."""
    done = subprocess.run(["git", *words], capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else ""


if __name__ == "__main__":
    outcome.run("compare", main)
