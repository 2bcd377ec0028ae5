"""docs/claims/<claim>.json: what was run and what came out, one entry a recipe and seed."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.claims import collect
from benchmarks.claims.arena import ROOT, Arena
from benchmarks.claims.recipes import BASE, Claim
from stages.lib.core import files

FOLDER = ROOT / "docs/claims"


def read(claim: str, folder: Path = FOLDER) -> dict[str, Any]:
    """What was found so far; no runs where nothing was."""
    path = folder / f"{claim}.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"claim": claim, "runs": []}
    return found


def measure(claim: Claim, seeds: Sequence[int], arena: Arena) -> None:
    """Run what is missing, and write the file after every run. Raises Refusal where a run fails."""
    for seed in seeds:
        for variant in claim.variants:
            kept = read(claim.name)
            if any((run["variant"], run["seed"]) == (variant.name, seed) for run in kept["runs"]):
                continue
            changes = arena.run(claim.name, variant, seed)
            found = collect.run(arena.work, variant.model, BASE["sets.main"], variant.teacher)
            about = {
                "variant": variant.name,
                "seed": seed,
                "revision": arena.revision(),
                "machine": machine.description(),
            }
            kept["runs"].append({**about, "model": variant.model, "changes": changes, **found})
            write(kept)


def write(found: dict[str, Any], folder: Path = FOLDER) -> None:
    """Replace a claim's file."""
    folder.mkdir(parents=True, exist_ok=True)
    with files.replace(folder / f"{found['claim']}.json") as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n")
