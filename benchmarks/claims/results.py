"""docs/claims/<claim>.json: what was run and what came out, one entry a recipe and seed."""

import json
from collections.abc import Sequence
from typing import Any

from benchmarks import machine
from benchmarks.claims import collect
from benchmarks.claims.arena import ROOT, Arena
from benchmarks.claims.recipes import BASE, Claim, Variant, with_
from stages.lib.core import files
from stages.lib.core.outcome import Refusal

FOLDER = ROOT / "docs/claims"


def read(claim: str) -> dict[str, Any]:
    """What was found so far; no runs where nothing was."""
    path = FOLDER / f"{claim}.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"claim": claim, "runs": []}
    return found


def measure(claim: Claim, wanted: Sequence[str], seeds: Sequence[int], arena: Arena) -> None:
    """Run what is missing of the `wanted` recipes, in their order; write the file after every run. Raises Refusal."""
    variants = {variant.name: variant for variant in claim.variants}
    if unknown := [name for name in wanted if name not in variants]:
        raise Refusal(f"{claim.name} has no recipe {', '.join(unknown)}; it has {', '.join(variants)}")
    for variant in (variants[name] for name in wanted):
        for seed in seeds:
            kept = read(claim.name)
            if any((run["variant"], run["seed"]) == (variant.name, seed) for run in kept["runs"]):
                continue
            found = known(variant, seed) or made(claim.name, variant, seed, arena)
            kept["runs"].append({"variant": variant.name, "seed": seed, **found})
            write(kept)


def made(claim: str, variant: Variant, seed: int, arena: Arena) -> dict[str, Any]:
    """Run a recipe and read what came out."""
    arena.run(claim, variant, seed)
    found = collect.run(arena.work, variant.model, variant.set_name, variant.teacher)
    about = {**arena.revision(), "machine": machine.description(), "model": variant.model}
    return {**about, "changes": changed(variant, seed), **found}


def known(variant: Variant, seed: int) -> dict[str, Any] | None:
    """The same recipe, as another claim has run it."""
    wanted = variant.model, changed(variant, seed)
    for path in sorted(FOLDER.glob("*.json")):
        for run in json.loads(path.read_text())["runs"]:
            if (run["model"], run["changes"]) == wanted and (not variant.teacher or "teacher_top1" in run["numbers"]):
                return {key: value for key, value in run.items() if key not in ("variant", "seed")}
    return None


def changed(variant: Variant, seed: int) -> dict[str, Any]:
    """What a run has otherwise than BASE."""
    changes = with_(variant.changes, dict.fromkeys(variant.seeds, seed))
    return {key: value for key, value in changes.items() if BASE.get(key) != value}


def write(found: dict[str, Any]) -> None:
    """Replace a claim's file."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with files.replace(FOLDER / f"{found['claim']}.json") as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n")
