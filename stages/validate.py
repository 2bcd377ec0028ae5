"""A gate: may the pipeline go on? Great Expectations holds tables of facts against limits that a person can edit.

in    data/expectations/<suite>.json      the limits: manifest, shards, model-<model>
      manifest <set>    data/manifest/<set>.parquet
      shards <set>      the manifest, data/index/<set>.parquet, data/shards/<set>
      model <model>     data/models/<model>, data/history/<model>.csv
out   data/gates/<gate>.json              on success only, and constant: a changed limit re-runs this gate and nothing else
      data/gate-details/<gate>.json       facts, limits, what was observed, rows by name; for the report, and written always
      data/gate-details/<gate>.html       the same for people
run   dvc repro -s validate-manifest@<set>    one gate by hand: python -m stages.validate manifest <set>
"""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from stages.lib.core import files, outcome
from stages.lib.core.outcome import Refusal
from stages.lib.data import expectations, manifest_facts, model_facts, shard_facts, suite
from stages.lib.reporting import gate_page

log = logging.getLogger(__name__)
DATA = Path("data")
GUIDES = {"manifest": manifest_facts.GUIDE, "shards": shard_facts.GUIDE, "model": model_facts.GUIDE}
NAMINGS = {"manifest": manifest_facts.NAMING, "shards": shard_facts.NAMING, "model": model_facts.NAMING}
ADVICE = {
    "manifest": "put the raw images right",
    "shards": "`python -m stages.shard --repair {name}` builds damaged and missing shards again, and only those, from raw "
    "images that have not changed since the scan; `dvc repro -f -s shard@{name}` builds all and their index",
    "model": "look at data/history/{name}.csv, change the model's block in params.yaml (learning rate, epochs)",
}
NAMED = 5  # rows of each expectation in the message; the page has more


def main() -> None:
    """Raises Refusal where the gate stays shut."""
    if len(sys.argv) != 3 or sys.argv[1] not in GUIDES:
        raise Refusal(f"use: python -m stages.validate {'|'.join(GUIDES)} <name of the set or model>")
    validate(*sys.argv[1:])


def validate(kind: str, name: str) -> None:
    """Write details and page always, the constant only if every expectation holds. Raises Refusal otherwise."""
    gate = f"{kind}-{name}"
    suite_path = DATA / "expectations" / f"{gate if kind == 'model' else kind}.json"
    constant, details_path = DATA / f"gates/{gate}.json", DATA / f"gate-details/{gate}.json"
    page_path = details_path.with_suffix(".html")
    for path in (constant, details_path, page_path):  # started by hand, nothing of an earlier run may stay
        path.unlink(missing_ok=True)
    expected = suite.read(suite_path, GUIDES[kind])
    found = expectations.judge(expected, facts_of(kind, name), GUIDES[kind], NAMINGS[kind])
    details = {"gate": gate, "kind": kind, "name": name, "suite": suite_path.as_posix(), **found}
    write(details_path, json.dumps(details, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write(page_path, gate_page.page(details))
    if not details["passed"]:
        raise Refusal(refusal(details, page_path))
    write(constant, json.dumps({"gate": gate, "passed": True}) + "\n")
    log.info("%s: %s %s", gate, gate_page.verdict(details), page_path)


def facts_of(kind: str, name: str) -> dict[str, pd.DataFrame]:
    """The tables of facts. Raises Refusal where one of the files they come from is not there."""
    if kind == "model":
        model, history = DATA / f"models/{name}", DATA / f"history/{name}.csv"
        be_there(model, history)
        return model_facts.read(name, model, history)
    manifest = DATA / f"manifest/{name}.parquet"
    be_there(manifest)
    if kind == "manifest":
        return manifest_facts.read(manifest, name)
    index, shards = DATA / f"index/{name}.parquet", DATA / f"shards/{name}"
    be_there(index, shards)
    return shard_facts.read(manifest, index, shards, name)


def be_there(*paths: Path) -> None:
    """Raises Refusal naming a path that is not there, and what is."""
    for path in paths:
        if not path.exists():
            there = sorted(other.stem for other in path.parent.glob(f"[!.]*{path.suffix}"))
            raise Refusal(
                f"There is no {path}; {path.parent} has: {', '.join(there) or 'nothing'}. `dvc repro` makes it."
            )


def refusal(details: dict[str, Any], page: Path) -> str:
    """What a person at the terminal needs: what is broken, where, and what to do."""
    lines = [f"The gate {details['gate']} stays shut. {gate_page.verdict(details)}"]
    for one in (one for one in details["expectations"] if not one["success"]):
        lines.append(f"  {one['table']}: {gate_page.sentence(one)}")
        lines.append(f"    {one['why']} Observed: {gate_page.counted(one) or one['observed']}.")
        lines += [f"    could not be evaluated: {one['error']}"] if one["error"] else []
        lines += [
            "      " + ", ".join(f"{column} {value!r}" for column, value in row.items()) for row in one["rows"][:NAMED]
        ]
        more = (one["unexpected"] or 0) - NAMED
        lines += [f"      and {more:,} more"] if more > 0 and one["rows"] else []
    lines.append(f"The page: {page}")
    advice = ADVICE[details["kind"]].format(name=details["name"])
    lines.append(
        f"What to do: {advice}; or, if a limit is wrong for this data, edit {details['suite']}. Then `dvc repro`: an edited "
        "limit runs this gate again, and nothing that has already run before it."
    )
    return "\n".join(lines)


def write(path: Path, text: str) -> None:
    """Replace a file whole."""
    with files.replace(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    outcome.run(f"validate-{'@'.join(sys.argv[1:3])}", main)  # as DVC calls the stage: validate-manifest@<set>
