"""Several processes train as one: real stages, real torchrun, gloo on the CPU."""

import csv
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from stages.lib.core import files
from tests.doors import doors, open_to_others
from tests.workspace import SET, edit, run, start, workers

MAE = Path("data/models/mae/model.safetensors")
STUDENT = Path("data/models/student/model.safetensors")
ROUNDING = 2e-4  # of weights after a few steps of AdamW, which turns a gradient's last bits into a share of a step


def copy(project: Path, folder: Path, **changes: object) -> Path:
    """A project of one's own; `a__b` is the key a.b. Long enough that a signal meets it before its end."""
    shutil.copytree(project, folder, symlinks=True)
    edit(folder, {"pretrain.epochs": 8, **{key.replace("__", "."): value for key, value in changes.items()}})
    return folder


def pretrained(project: Path, folder: Path, ranks: int, **changes: object) -> Path:
    """A finished pretraining in `ranks` processes."""
    copy(project, folder, system__ranks=ranks, **changes)
    run(folder, "stages.pretrain", SET)
    return folder


def history(folder: Path, name: str) -> list[dict[str, float]]:
    with (folder / f"data/history/{name}.csv").open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def apart(one: Path, other: Path, weights: Path = MAE) -> float:
    """The largest difference of any weight."""
    mine, theirs = load_file(one / weights), load_file(other / weights)
    return max(float((mine[name].double() - theirs[name].double()).abs().max()) for name in mine)


@pytest.fixture(scope="module")
def alone(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrained(project, tmp_path_factory.mktemp("alone") / "p", 1)


@pytest.fixture(scope="module")
def pair(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrained(project, tmp_path_factory.mktemp("pair") / "p", 2)


def same_curve(one: Path, other: Path, name: str) -> bool:
    """Losses, rates and validation agree to rounding."""
    rows = list(zip(history(one, name), history(other, name), strict=True))
    return bool(rows) and all(
        mine[key] == pytest.approx(theirs[key], rel=2e-5) for mine, theirs in rows for key in mine
    )


def test_pretrain__two_processes_are_one_to_rounding(alone: Path, pair: Path) -> None:
    assert same_curve(alone, pair, "mae")
    assert 0 < apart(alone, pair) < ROUNDING


def test_pretrain__another_seed_is_more_than_rounding(alone: Path, project: Path, tmp_path: Path) -> None:
    """Negative control of the comparison above."""
    other = pretrained(project, tmp_path / "p", 1, pretrain__seed=1)
    assert not same_curve(alone, other, "mae") and apart(alone, other) > 100 * ROUNDING


@pytest.mark.slow
def test_pretrain__four_processes_or_four_passes_are_one_to_rounding(
    alone: Path, project: Path, tmp_path: Path
) -> None:
    """128 images: four processes of 32, and one process with passes of 32; the log says so."""
    four = copy(project, tmp_path / "four", system__ranks=4)
    assert "4 processes of 32 images" in run(four, "stages.pretrain", SET)
    passes = copy(project, tmp_path / "passes", system__device_batch=40)
    assert "128 images in 4 passes of 32" in run(passes, "stages.pretrain", SET)
    for other in (four, passes):
        assert same_curve(alone, other, "mae") and 0 < apart(alone, other) < ROUNDING


@pytest.mark.slow
def test_teacher__norm_groups_do_not_see_the_number_of_processes(project: Path, tmp_path: Path) -> None:
    """Statistics of four groups of 16: two processes are two passes to the bit, running statistics and EMA included; one pass is
    so up to what a convnet makes of rounding (tests/models/test_teacher.py has it in double precision).
    """
    changes = {"teacher__norm_group": 16, "teacher__ema_decay": 0.5, "teacher__optimizer__lr": 1e-3}
    weights = Path("data/models/teacher/model.safetensors")
    one, two, passes = (
        copy(project, tmp_path / str(number), **changes, system__ranks=ranks, system__device_batch=most)
        for number, (ranks, most) in enumerate([(1, 0), (2, 0), (1, 32)])
    )
    for folder in (one, two, passes):
        run(folder, "stages.teacher", SET)
    assert files.sha256(two / weights) == files.sha256(passes / weights) != files.sha256(one / weights)
    losses = [[row["loss"] for row in history(folder, "teacher")] for folder in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    coarser = copy(project, tmp_path / "control", **{**changes, "teacher__norm_group": 32})
    run(coarser, "stages.teacher", SET)
    assert [row["loss"] for row in history(coarser, "teacher")] != pytest.approx(losses[0], rel=1e-4)


@pytest.mark.slow
def test_pretrain__divided_weights_are_one_to_rounding_and_go_on(alone: Path, project: Path, tmp_path: Path) -> None:
    """FSDP2 over two processes, killed in the middle and gone on with by one that divides nothing."""
    folder = copy(project, tmp_path / "p", system__ranks=2, system__shard_weights=True, system__device_batch=32)
    edit(folder, {"system.checkpoint_activations": True})
    process = start(folder, "stages.pretrain", SET)
    follow(process, "step 4 of")
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, output
    whole = copy(folder, tmp_path / "whole", system__ranks=1, system__shard_weights=False)
    for finished in (folder, whole):
        assert "continuing after step" in run(finished, "stages.pretrain", SET)
        assert same_curve(alone, finished, "mae") and 0 < apart(alone, finished) < ROUNDING


@pytest.mark.slow
def test_refused__divided_weights_of_a_convnet(project: Path, tmp_path: Path) -> None:
    folder = copy(
        project,
        tmp_path / "p",
        system__ranks=2,
        system__shard_weights=True,
        teacher__norm_group=16,
        train__labels="live",
    )
    process = start(folder, "stages.teacher", SET)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2 and "shard_weights knows neither ema_decay nor batch norm" in output, output


@pytest.mark.slow
def test_evaluate__each_image_once_and_the_same_bits(project: Path, tmp_path: Path) -> None:
    """Two processes share batches of 16; predictions and metrics are the very files one process writes."""
    folder = copy(project, tmp_path / "p", evaluate__batch_size=16)
    run(folder, "stages.teacher", SET)
    made = [
        f"data/{kind}" for kind in ("metrics/teacher.json", "predictions/teacher.parquet", "plots/teacher-classes.csv")
    ]
    found = []
    for ranks in (2, 1):
        edit(folder, {"system.ranks": ranks})
        run(folder, "stages.evaluate", "teacher", SET)
        found.append([files.sha256(folder / path) for path in made])
    assert found[0] == found[1]
    images = json.loads((folder / made[0]).read_text())["images"]
    assert images > 16 * 3
    config = folder / "data/models/teacher/config.json"
    config.write_text(config.read_text().replace('"crop_pct": 1.0', '"crop_pct": 0.7'))
    run(folder, "stages.evaluate", "teacher", SET)  # control: other views are other files
    assert files.sha256(folder / made[1]) != found[0][1]


def follow(process: "subprocess.Popen[str]", words: str) -> str:
    """Read the output until a line matches."""
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if re.search(words, line):
            return seen
    raise AssertionError(f"{words!r} never came:\n{seen}")


@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_pretrain__a_process_that_dies_is_started_again_with_the_others(
    pair: Path, project: Path, tmp_path: Path, victim: int
) -> None:
    """kill -9 in the middle: the launcher goes on from the last checkpoint, and the bits are those of a run left alone."""
    folder = copy(project, tmp_path / "p", system__ranks=2)
    process = start(folder, "stages.pretrain", SET)
    follow(process, "step 3 of")
    killed = time.monotonic()
    os.kill(workers(process.pid)[victim], signal.SIGKILL)
    output = follow(process, "continuing after step")
    assert time.monotonic() - killed < 60
    assert process.stdout is not None
    output += process.stdout.read()
    assert process.wait(60) == 0, output
    assert files.sha256(folder / MAE) == files.sha256(pair / MAE)


def test_pretrain__a_death_without_restarts_ends_all_and_another_number_goes_on(
    alone: Path, project: Path, tmp_path: Path
) -> None:
    """Within 60 s nobody is left; the next start, with one process, continues and says that the number has changed."""
    folder = copy(project, tmp_path / "p", system__ranks=2, system__max_restarts=0)
    process = start(folder, "stages.pretrain", SET)
    follow(process, "step 3 of")
    both = workers(process.pid)
    assert doors([process.pid, *both]) and not open_to_others(
        [process.pid, *both]
    )  # no other machine reaches their stores
    killed = time.monotonic()
    os.kill(both[1], signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and time.monotonic() - killed < 60, output
    assert not any(Path(f"/proc/{pid}").exists() for pid in both)
    ending = json.loads((folder / f"data/runs/pretrain@{SET}/last_exit.json").read_text())
    assert ending["retryable"] and "process 1 died of signal SIGKILL" in ending["reason"]
    edit(folder, {"system.ranks": 1})
    output = run(folder, "stages.pretrain", SET)
    assert "there were 2 processes, now there are 1" in output
    assert same_curve(alone, folder, "mae") and apart(alone, folder) < ROUNDING


@pytest.mark.slow
def test_pretrain__asked_to_stop_all_save_and_leave(pair: Path, project: Path, tmp_path: Path) -> None:
    folder = copy(project, tmp_path / "p", system__ranks=2, system__checkpoint_seconds=1e6)
    process = start(folder, "stages.pretrain", SET)
    follow(process, "step 2 of")
    both = workers(process.pid)
    os.kill(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, output
    assert not any(Path(f"/proc/{pid}").exists() for pid in both)
    ending = json.loads((folder / f"data/runs/pretrain@{SET}/last_exit.json").read_text())
    assert ending["retryable"] and "continues" in ending["reason"]
    assert "continuing after step" in run(folder, "stages.pretrain", SET)
    assert files.sha256(folder / MAE) == files.sha256(pair / MAE)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [None, 0, 1])
def test_pretrain__two_machines_are_two_processes(
    pair: Path, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, victim: int | None
) -> None:
    """Two launchers meet by torchrun's variables, each in a folder of its own; the first machine's gets the model, and a worker
    killed on either machine costs both a restart, which the second reads from the first's checkpoint."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    for name, value in (
        ("NNODES", "2"),
        ("RDZV_BACKEND", "c10d"),
        ("RDZV_ENDPOINT", f"localhost:{port}"),
        ("RDZV_ID", "two"),
    ):
        monkeypatch.setenv(f"PET_{name}", value)
    machines = [copy(project, tmp_path / str(number)) for number in (0, 1)]
    running = [start(folder, "stages.pretrain", SET) for folder in machines]
    if victim is not None:
        speaker = wait_for_step(machines, 2)
        os.kill(workers(running[speaker if victim == 0 else 1 - speaker].pid)[0], signal.SIGKILL)
    outputs = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], outputs
    (first,) = [folder for folder in machines if (folder / MAE).exists()]
    assert files.sha256(first / MAE) == files.sha256(pair / MAE)


@pytest.mark.slow
def test_pretrain__under_somebody_elses_torchrun_the_first_process_tells(project: Path, tmp_path: Path) -> None:
    """No launcher of ours: how it ended still reaches whoever asked for it."""
    folder = copy(project, tmp_path / "p")
    words = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "stages.pretrain", SET]
    process = start(folder, *words, TUTELAGE_TELL=str(tmp_path / "told"))
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    told = json.loads((tmp_path / "told/last_exit.json").read_text())
    assert told == {"code": 0, "reason": "finished", "retryable": False}
    progress = json.loads((tmp_path / "told/progress.json").read_text())
    assert progress["step"] == progress["steps"] and progress["title"] == "pretrain"


def wait_for_step(machines: list[Path], step: int) -> int:
    """Until one of the machines has written the row of a step; which one."""
    end = time.monotonic() + 90
    while time.monotonic() < end:
        for number, folder in enumerate(machines):
            for path in (folder / "data/runs/pretrain").glob("*/metrics.jsonl"):
                if path.read_text().count("\n") >= step:
                    return number
        time.sleep(0.02)
    raise AssertionError(f"step {step} never came")


@pytest.mark.slow
def test_pretrain__a_process_that_hangs_is_given_up(pair: Path, project: Path, tmp_path: Path) -> None:
    """SIGSTOP: it neither dies nor answers. Collectives give up, and all start again from the last checkpoint."""
    folder = copy(project, tmp_path / "p", system__ranks=2, system__collective_seconds=10.0)
    process = start(folder, "stages.pretrain", SET)
    follow(process, "step 2 of")
    os.kill(workers(process.pid)[1], signal.SIGSTOP)
    output, _ = process.communicate(timeout=150)
    assert process.returncode == 0, output
    assert "continuing after step" in output
    assert files.sha256(folder / MAE) == files.sha256(pair / MAE)


@pytest.mark.slow
def test_pretrain__stopped_before_it_has_begun(project: Path, tmp_path: Path) -> None:
    """A signal that meets workers that cannot obey yet is not lost."""
    folder = copy(project, tmp_path / "p", system__ranks=2)
    process = start(folder, "stages.pretrain", SET)
    follow(process, "2 processes on this machine")
    end = time.monotonic() + 30
    while not workers(process.pid) and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=90)
    assert process.returncode == 128 + signal.SIGTERM, output
    assert not (folder / MAE).exists()


@pytest.mark.slow
def test_distill__mixing_and_stochastic_depth_do_not_see_the_number_of_processes(project: Path, tmp_path: Path) -> None:
    """96 images are three mixing groups: three processes of one, or one process with passes of one."""
    changes = {"train__distill": "none", "train__teacher": "none", "train__views__epochs": 2, "train__drop_path": 0.4}
    one, three, passes = (
        copy(project, tmp_path / str(number), **changes, system__ranks=ranks, system__device_batch=most)
        for number, (ranks, most) in enumerate([(1, 0), (3, 0), (1, 33)])
    )
    for folder in (one, three, passes):
        run(folder, "stages.distill", SET)
    for other in (three, passes):
        assert same_curve(one, other, "student") and 0 < apart(one, other, STUDENT) < ROUNDING


@pytest.mark.slow
def test_pretrain__the_launcher_killed_outright_leaves_nobody_behind(project: Path, tmp_path: Path) -> None:
    folder = copy(project, tmp_path / "p", system__ranks=2, pretrain__epochs=50)
    process = start(folder, "stages.pretrain", SET)
    follow(process, "step 2 of")
    both = workers(process.pid)
    process.kill()
    process.communicate(timeout=60)
    end = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in both) and time.monotonic() < end:
        time.sleep(0.2)
    assert not any(Path(f"/proc/{pid}").exists() for pid in both)


@pytest.mark.slow
def test_refused__by_the_first_alone_all_leave_at_once_and_nothing_is_started_again(
    alone: Path, tmp_path: Path
) -> None:
    """Only the first process asks for the lease of the run, which this test holds; the second waits for it in a collective."""
    folder = copy(alone, tmp_path / "p", system__ranks=2)
    (lease,) = (folder / "data/runs/pretrain").glob("*/lease")
    with lease.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        process = start(folder, "stages.pretrain", SET)
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 2, output
    assert output.count("already running") == 1 and "Traceback" not in output, output


@pytest.mark.slow
def test_refused__a_batch_that_cannot_be_divided(project: Path, tmp_path: Path) -> None:
    folder = copy(project, tmp_path / "p", system__ranks=3)
    process = start(folder, "stages.pretrain", SET)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2 and "cannot be divided among 3 processes; take 2 or 4 (system.ranks)" in output
    assert "Traceback" not in output


def test_refused__more_processes_than_gpus(project: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there are GPUs here")
    folder = copy(project, tmp_path / "p", system__ranks=2, system__device="cuda")
    process = start(folder, "stages.pretrain", SET)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2 and "system.ranks 2 needs a GPU for each, and 0 are visible" in output
