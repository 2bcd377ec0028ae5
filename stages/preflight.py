"""What will it take? The first steps of every stage that trains, as it would run, before days are spent. No DVC stage.

in    params.yaml or a preset, data/index and data/shards of the sets it names
out   <run root>/preflight.json    what was measured and predicted; nothing else is kept
run   python -m stages.preflight [<preset>] [--json]    (`make preflight`)
      python -m stages.preflight --compare              predicted beside what runs have really taken since
"""

import hashlib
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from stages.lib.core import files, load, outcome
from stages.lib.core.outcome import Refusal
from stages.lib.core.signals import Stopped
from stages.lib.params.everything import Everything
from stages.lib.params.pretrain import Pretrain
from stages.lib.params.training import Training
from stages.lib.reporting import forecast_table

if TYPE_CHECKING:
    from stages.lib.training.rehearsal import Tried

log = logging.getLogger(__name__)
USE = "use: python -m stages.preflight [<params file>] [--json], or python -m stages.preflight --compare"
Found = dict[str, Any]


def main() -> None:
    """Measure and predict, or compare. Raises Refusal naming all that would not fit."""
    words = [word for word in sys.argv[1:] if not word.startswith("-")]
    flags = set(sys.argv[1:]) - set(words)
    if flags == {"--compare"} and not words:
        compare()
        return
    if len(words) > 1 or flags - {"--json"}:
        raise Refusal(USE)
    path = Path(words[0] if words else load.PARAMS)
    params = load.whole(Everything, path)
    must_be_sharded(params.sets.main)
    found = list(measured(path, params))
    keep(found, params)
    if flags:
        sys.stdout.writelines(json.dumps(one) + "\n" for one in found)
    else:
        sys.stdout.write(forecast_table.table(found))
    refuse(found)


def compare() -> None:
    """Print predicted and actual. Raises Refusal where nothing was predicted."""
    path = files.root() / "preflight.json"
    if not path.is_file():
        raise Refusal(f"There is no {path}: `make preflight` predicts, --compare looks back.")
    sys.stdout.write(forecast_table.compared(json.loads(path.read_text())["stages"], files.root()))


def must_be_sharded(set_name: str) -> None:
    """Raise Refusal without images to measure with."""
    if not (index := Path(f"data/index/{set_name}.parquet")).is_file():
        raise Refusal(f"There is no index {index} to measure with: run `dvc repro shard@{set_name}` first.")


def stages_of(params: Everything) -> Iterator[tuple[str, str, str]]:
    """(stage, set, why it is left out) of all that train or ask a teacher."""
    main = params.sets.main
    source = params.teacher.source
    yield "teacher", main, "" if source == "train" else f"its weights come from {source}, nothing is trained"
    yield "pretrain", main, ""
    yield "label", main, "" if params.train.labels == "stored" else "train.labels is live, nothing is stored"
    yield "distill", main, ""
    yield "finetune", main, ""
    for name in params.sets.transfer:
        there = Path(f"data/index/{name}.parquet").is_file()
        yield "transfer", name, "" if there else f"{name} is not sharded; `dvc repro shard@{name}` first"


def measured(path: Path, params: Everything) -> Iterator[Found]:
    """Every stage's forecast, one after the other, from a throw-away project on the disk of the run root."""
    from stages.lib.training import launcher, rehearsal  # torch, which --compare does not need

    files.root().mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, stop)
    with tempfile.TemporaryDirectory(dir=files.root().resolve(), prefix=".preflight-") as name:
        folder = Path(name)
        rehearsal.lay_out(folder, path, Path.cwd())
        rehearsal.write_stand_ins(folder, params)
        log.info(
            "models to learn from are untrained stand-ins of the right sizes: speed and memory are asked, no accuracy"
        )
        for stage, set_name, left_out in stages_of(params):
            one: Found = {"stage": stage, "set": set_name}
            one["name"] = f"transfer@{set_name}" if stage == "transfer" else stage
            if left_out:
                yield one | {"status": "left out", "reason": left_out}
                continue
            log.info("%s: %d steps", one["name"], rehearsal.STEPS)
            # processes of `label` share epochs, not batches
            groups = 0 if stage == "label" else block_of(stage, params).groups
            processes = launcher.wanted(params.system, groups)
            yield one | told(one, rehearsal.rehearse(folder, stage, set_name, params), params, processes)
            shutil.rmtree(folder / "runs" / one["name"], ignore_errors=True)


def block_of(stage: str, params: Everything) -> Training | Pretrain:
    """What a stage trains by; `label` asks about the views of `train`."""
    if stage == "pretrain":
        return params.pretrain
    blocks: dict[str, Training] = {"teacher": params.teacher, "finetune": params.finetune, "transfer": params.transfer}
    return blocks.get(stage, params.train)


def stop(signum: int, _frame: FrameType | None) -> None:
    """So that the throw-away folder goes."""
    raise Stopped(signum)


def told(one: Found, tried: "Tried", params: Everything, processes: int) -> Found:
    """A trial's forecast, or what went wrong."""
    from stages.lib.data.index import read_index
    from stages.lib.training import forecast

    stage, system = one["stage"], params.system
    if tried.fault:
        remedy = "lower system.device_batch (label: system.label_batch), or set system.checkpoint_activations"
        status = f"does not fit into memory ({remedy})" if tried.memory else "failed"
        return {"status": status, "reason": tried.fault}
    assert tried.took is not None and tried.identity is not None
    epochs, best = course_of(stage, params)
    pace = forecast.pace(tried.rows, int(tried.took["batch_size"]), processes if stage == "label" else 1)
    val = 0 if stage == "label" else len(read_index(Path(f"data/index/{one['set']}.parquet"), "val"))
    course = forecast.course(pace, tried.took, epochs, val, system.checkpoint_seconds)
    on_gpus = processes if system.device != "cpu" and gpu_names() else 0
    return {
        "status": "measured",
        "reason": "",
        "processes": processes,
        **course,
        "cost": forecast.total_cost(course["hours"], on_gpus, system.price_per_gpu_hour),
        "checkpoint_bytes": tried.checkpoint_bytes,
        "disk": disk(stage, course, tried.checkpoint_bytes, best, params),
        "index_sha256": files.sha256(Path(f"data/index/{one['set']}.parquet")),
        "params": with_epochs(stage, tried.identity["params"], epochs),
    }


def course_of(stage: str, params: Everything) -> tuple[int, bool]:
    """(epochs, whether the weights of the best look are kept) of a stage."""
    block = block_of(stage, params)
    if isinstance(block, Pretrain):
        return block.epochs, False
    return block.views.epochs, stage != "label" and block.select == "best_val"


def with_epochs(stage: str, blocks: list[Any], epochs: int) -> list[Any]:
    """The parameters a run's identity is of; `distill` was tried with fewer epochs where labels are stored."""
    if stage == "distill":
        blocks[0]["views"]["epochs"] = epochs
    return blocks


def disk(stage: str, course: Found, checkpoint: int, best: bool, params: Everything) -> dict[str, int]:
    """Bytes a stage writes under the run root and under data/. Labels are linked, and copied only from another disk."""
    from stages.lib.training import forecast

    if stage != "label":
        kept = forecast.kept_bytes(checkpoint, params.system.keep_checkpoints, best)
        return {"runs": kept, "data": checkpoint // 3}  # of a model, its optimizer's two moments and no more
    positions = int(course["steps_per_epoch"] * course["batch_size"])
    store = forecast.label_bytes(course["epochs"], positions, params.train.labelling.top_k)
    return {"runs": store, "data": 0 if device_of(files.root()) == device_of(Path("data")) else store}


def device_of(path: Path) -> int:
    """The disk a folder lies on."""
    return os.stat(path).st_dev


def gpu_names() -> list[str]:
    """Of those that are visible."""
    import torch

    return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]


def keep(found: list[Found], params: Everything) -> None:
    """Write preflight.json, for --compare."""
    science = params.model_dump(mode="json", exclude={"system"})
    content = {
        "params_sha256": hashlib.sha256(json.dumps(science, sort_keys=True).encode()).hexdigest(),
        "machine": {"host": os.uname().nodename, "cores": os.cpu_count(), "gpus": gpu_names()},
        "system": params.system.model_dump(mode="json"),
        "stages": found,
    }
    with files.replace(files.root() / "preflight.json") as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def refuse(found: list[Found]) -> None:
    """Raise Refusal naming every stage that did not go, and every disk that is too small for all of them."""
    from stages.lib.training import forecast

    faults = [f"{one['name']}: {one['status']}" for one in found if one["status"] not in ("measured", "left out")]
    places = {"runs": files.root(), "data": Path("data")}
    needed = [
        (device_of(places[place]), size, f"{one['name']} ({place})")
        for one in found
        for place, size in one.get("disk", {}).items()
    ]
    free = {device_of(path): shutil.disk_usage(path).free for path in places.values()}
    faults += [
        f"{said}. Free some, put the run root elsewhere ($TUTELAGE_RUNS), or lower system.keep_checkpoints, "
        "train.labelling.top_k or epochs"
        for said in forecast.over(needed, free)
    ]
    if faults:
        raise Refusal("This will not do:\n" + "\n".join(f"  {fault}" for fault in faults))


if __name__ == "__main__":
    outcome.run("preflight", main)
