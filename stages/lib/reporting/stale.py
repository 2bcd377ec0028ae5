"""Are the numbers of a page of one run? Metrics, gates and agreement say which weights and which images they are of."""

from stages.lib.core.outcome import Refusal
from stages.lib.data import stamp
from stages.lib.data.stamp import Stamp
from stages.lib.reporting.inputs import Folder, Record

MEASURED = ("teacher", "student", "finetuned")


def refuse(folder: Folder) -> None:
    """Raise Refusal naming a file that is of other weights or images than the files beside it."""
    found = {name: record for name in MEASURED if (record := folder.metrics(name))}
    agreement = folder.record("metrics/agreement.json")
    for name, metrics in found.items():
        own = _stamp(metrics, "stamp")
        gate = folder.record(f"gate-details/model-{name}.json")
        if gate and (judged := gate.fact("facts.sha256")):
            _must_fit(metrics.file, own[:1], gate.file, [f"model {judged.value}"], name)
        if agreement and (theirs := _stamp(agreement, f"stamps.{name}")):
            _must_fit(agreement.file, theirs, metrics.file, own, name)
        first = next(iter(found.values()))
        _must_fit(metrics.file, own[1:], first.file, _stamp(first, "stamp")[1:], name)


def _stamp(record: Record, key: str) -> Stamp:
    fact = record.fact(key)
    return fact.value if fact and isinstance(fact.value, list) else []


def _must_fit(file: str, ours: Stamp, other: str, theirs: Stamp, model: str) -> None:
    """Where one of the two has no stamp, as before there were any, nothing is known."""
    if ours and theirs and (apart := stamp.difference(ours, theirs)):
        raise Refusal(
            f"{file} and {other} are not of one run: one of them is stale, as they were made from different {apart}. "
            f"`dvc checkout` restores the files of one run, `dvc repro evaluate@{model}` measures what is there now."
        )
