"""The live page: of a real DVC repository and real run folders, while DVC is at work, with nothing trained, with damaged files."""

import contextlib
import fcntl
import http.client
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stages import live
from stages.lib.core import loopback
from stages.lib.reporting import live_cache, live_page, live_plot, live_runs
from tests.workspace import ROOT, environment

PARAMS = {"train": {"lr": 1, "epochs": 2}, "system": {"price_per_gpu_hour": 2.0}}
PIPELINE = """
stages:
  check: {cmd: python run.py checked, deps: [code.py], outs: [checked], meta: {gpu_hours: 0}}
  distill: {cmd: python run.py model, deps: [checked, code.py, markers], params: [train.lr], outs: [model], meta: {gpu_hours: 40}}
  evaluate:
    foreach: [a, b]
    do: {cmd: "python run.py ${item}", deps: [model], outs: ["${item}"], meta: {gpu_hours: 0.5}}
"""


def dvc(folder: Path, *words: str) -> str:
    """`dvc <words>` in the folder; its output."""
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *words],
        cwd=folder,
        env=environment() | {"DVC_NO_ANALYTICS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small pipeline that has run."""
    folder = tmp_path_factory.mktemp("live")
    (folder / "dvc.yaml").write_text(PIPELINE)
    (folder / "params.yaml").write_text(json.dumps(PARAMS))
    (folder / "code.py").write_text("pass\n")
    (folder / "markers").mkdir()
    (folder / "markers" / "none.json").write_text("{}")
    (folder / "run.py").write_text("import sys\nopen(sys.argv[1], 'w').write(sys.argv[1])\n")
    (folder / "stages").symlink_to(ROOT / "stages")
    dvc(folder, "init", "--no-scm", "-q")
    dvc(folder, "repro", "-q")
    return folder


@contextlib.contextmanager
def edited(path: Path, text: str | None) -> Iterator[None]:
    """With another content, or none; as it was afterwards."""
    before = path.read_text()
    path.unlink() if text is None else path.write_text(text)
    try:
        yield
    finally:
        path.write_text(before)


def states(folder: Path) -> dict[str, tuple[str, list[str]]]:
    """(state, what changed) of every stage."""
    return {one.name: (one.state, list(one.changed)) for one in live_cache.stages(folder)}


def test_states__are_what_dvc_status_says_and_what_follows_comes_after(repository: Path) -> None:
    """One edit after the other: code, a parameter, a marker, an out that was deleted, a stage that never ran."""
    fresh: dict[str, tuple[str, list[str]]] = {
        name: ("fresh", []) for name in ("check", "distill", "evaluate@a", "evaluate@b")
    }
    assert states(repository) == fresh and [*states(repository)][:2] == ["check", "distill"]
    followers = {"evaluate@a": ("after", []), "evaluate@b": ("after", [])}
    with edited(repository / "code.py", "x = 1\n"):
        wanted = {"check": ("stale", ["code.py"]), "distill": ("stale", ["code.py"]), **followers}
        assert states(repository) == wanted
        assert set(json.loads(dvc(repository, "status", "--json"))) == {"check", "distill"}
    with edited(repository / "params.yaml", json.dumps(PARAMS | {"train": {"lr": 2, "epochs": 9}})):
        assert states(repository) == fresh | {"distill": ("stale", ["train.lr"]), **followers}
    with edited(repository / "markers" / "none.json", "[]"):
        assert states(repository) == fresh | {"distill": ("stale", ["markers"]), **followers}
    with edited(repository / "a", None):
        assert states(repository) == fresh | {"evaluate@a": ("stale", ["a is not here"])}
    lock = (repository / "dvc.lock").read_text()
    with edited(repository / "dvc.lock", lock[: lock.index("  evaluate@b")]):
        assert states(repository) == fresh | {"evaluate@b": ("never", [])}
    with edited(
        repository / "dvc.lock", lock.replace("md5: ", "md5: 0", 1)
    ):  # another out of `check` than the next one used
        assert states(repository)["check"][0] == "stale"
    assert states(repository) == fresh


def test_states__are_asked_without_a_lock_and_leave_no_note(repository: Path) -> None:
    """`dvc status` waits for whoever holds the repository's lock, and gives up (control); this one answers meanwhile."""
    from dvc.repo import Repo

    note = repository / ".dvc/tmp/rwlock"
    note.write_text('{"write": {}, "read": {}}')
    command = [sys.executable, "-m", "stages.lib.reporting.live_cache"]
    with Repo(str(repository)) as repo, repo.lock:
        done = subprocess.run(command, cwd=repository, env=environment(), capture_output=True, text=True, timeout=120)
        found = json.loads(done.stdout)
        other = subprocess.run(
            [sys.executable, "-m", "dvc", "status"], cwd=repository, capture_output=True, text=True, timeout=120
        )
    assert [one["state"] for one in found["stages"]] == ["fresh"] * 4 and found["seconds"] < 60
    assert other.returncode != 0 and "lock" in other.stderr
    assert note.read_text() == '{"write": {}, "read": {}}'


def test_states__of_files_that_do_not_fit_together_are_a_sentence(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_cache, "PAUSE_SECONDS", 0.01)
    for name, text in (
        ("params.yaml", "train: ["),
        ("dvc.yaml", "stages: {a: 1}"),
        ("dvc.lock", "schema: '2.0'\nstages: ["),
    ):
        with edited(repository / name, text):
            found = live_cache.answer(repository)
        assert set(found) == {"error"} and 0 < len(found["error"]) <= 500 and "\n" not in found["error"]


TOOK = {
    "epochs": 10, "steps_per_epoch": 20, "batch_size": 64, "starts": 2.0, "steps": 100.0, "startup_seconds": 10.0,
    "training_seconds": 3000.0, "validation_seconds": 500.0, "validations": 3.0, "saving_seconds": 90.0, "savings": 5.0,
}  # fmt: skip
IDENTITY = {"stage": "distill", "params": [{"lr": 1}], "inputs": {"data/index/x.parquet": "ab"}}
FORECAST = {
    "name": "distill", "stage": "distill", "status": "measured", "hours": 2.0, "cost": 4.0, "epochs": 10, "steps_per_epoch": 20,
    "batch_size": 64, "params": [{"lr": 1}], "index_sha256": "ab",
}  # fmt: skip


def write(path: Path, content: object) -> Path:
    """JSON, or bytes as they are; the folders too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def run_root(place: Path) -> Path:
    """Run folders of a student that is being distilled, on two GPUs, at step 120 of 200."""
    folder = place / "distill" / "0123456789abcdef"
    write(folder / "identity.json", IDENTITY)
    write(folder / "took.json", TOOK)
    write(folder / "machine-2.json", {"device": "cuda"})
    rows = [
        {"step": step, "loss": 2.5, "images_per_second": 128.0, "peak_bytes": 2e9, "waiting_share": 0.25}
        for step in (110, 120)
    ]
    write(folder / "metrics.jsonl", b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    write(folder / "lease", f"process {os.getpid()} on {os.uname().nodename}".encode())
    write(
        place / "preflight.json",
        {"stages": [FORECAST, {"name": "transfer@x", "status": "left out", "reason": "not sharded"}]},
    )
    write(place / "check" / "last_exit.json", {"code": 0, "reason": "finished", "retryable": False})
    write(place / "evaluate@a" / "last_exit.json", {"code": 2, "reason": "no <b>such</b> file", "retryable": False})
    rows = [
        {"precision": "fp32", "batch_size": size, "images_per_second": rate, "peak_bytes": 2e9}
        for size, rate in ((1, 90.0), (64, 400.0))
    ]
    write(place / "throughput" / "student.json", {"machine": {"device": "a <processor>"}, "rows": rows})
    write(
        place / "throughput" / "teacher.json",
        {"rows": [{"batch_size": 8, "images_per_second": 50.5}, {"failed": "out of memory"}]},
    )
    return place


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """As a run holds its folder."""
    with (folder / "lease").open("a+") as lease:
        fcntl.flock(lease, fcntl.LOCK_EX)
        yield


def test_run__that_is_held_is_at_work_and_says_how_far_it_is(tmp_path: Path) -> None:
    root = run_root(tmp_path)
    folder = root / "distill" / "0123456789abcdef"
    assert (
        live_runs.read(root).runs["distill"].holder == "" and live_runs.read(root).runs["distill"].seconds_left is None
    )
    with held(folder):
        run = live_runs.read(root).runs["distill"]
        assert (run.step, run.steps, run.gpus, run.seconds, run.done) == (120, 200, 2, 3600, False)
        assert run.holder.startswith(f"process {os.getpid()} on ")
        assert run.seconds_left == pytest.approx(80 * 64 / 128 * (1 + 590 / 3000))
        (folder / "took.json").unlink()
        assert live_runs.read(root).runs["distill"].steps == 200  # before the first checkpoint, by what was predicted
        write(folder / "identity.json", IDENTITY | {"params": [{"lr": 3}]})  # of another recipe nobody knows
        assert live_runs.read(root).runs["distill"].steps is None
    tell = write(tmp_path / "told" / "progress.json", {"step": 130, "steps": 200, "seconds_left": 7.5}).parent
    program = [sys.executable, "-c", "print(flush=True); input()"]
    variables = os.environ | {"TUTELAGE_TELL": str(tell)}
    child = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=variables)
    assert child.stdout and child.stdout.readline()  # it runs: until then it has no variables to be read
    try:  # a flow's child is told where to say more
        assert live_runs._told(f"process {child.pid} on {os.uname().nodename}")["seconds_left"] == 7.5
        assert live_runs._told(f"process {child.pid} on another-host") == {}
    finally:
        child.communicate(b"\n")


def damage(root: Path) -> None:
    """Whatever a power cut or a person may have left."""
    write(root / "preflight.json", b'{"stages": [')
    write(root / "check" / "last_exit.json", b"\xff\xfe")
    write(root / "evaluate@a" / "last_exit.json", {"code": "zero"})
    write(root / "throughput" / "student.json", b"[1, 2]")
    write(root / "throughput" / "deep.json", b"[" * 100_000)
    write(root / "throughput" / "odd.json", {"rows": [3, {"images_per_second": "fast"}, {"images_per_second": 0}]})
    folder = root / "distill" / "0123456789abcdef"
    write(folder / "took.json", {"epochs": 10, "steps": None})
    write(folder / "identity.json", b"null")
    write(folder / "metrics.jsonl", b'{"step": 1, "images_per_second": 5}\nnot a row\n[3]\n{"step": 2, "images_per_sec')
    write(folder / "machine.json", b"")
    write(root / "pretrain" / "feed" / "identity.json", {"inputs": 3, "params": "x"})
    write(root / "pretrain" / "feed" / "metrics.jsonl", b'{"images": 1e999, "images_per_second": NaN, "step": true}\n')


def test_files__that_are_damaged_are_named_and_the_rest_is_read(tmp_path: Path) -> None:
    root = run_root(tmp_path)
    damage(root)
    found = live_runs.read(root)
    assert set(found.runs) == {"distill", "pretrain"} and found.runs["distill"].step == 1
    said = "\n".join(found.trouble)
    for name in ("preflight.json", "check/last_exit.json", "evaluate@a/last_exit.json", "student.json", "deep.json", "took.json",
                 "identity.json", "metrics.jsonl has 2 lines", "machine.json"):  # fmt: skip
        assert name in said, name
    assert "Traceback" not in said
    write(root / "throughput" / "big.json", b" " * (live_runs.LARGEST_BYTES + 1))
    assert "big.json" in "\n".join(live_runs.read(root).trouble)


def now(found: live_runs.Found, cache: dict[str, Any], **more: Any) -> live_page.Now:
    """A page's material."""
    given = {
        "metrics": {"student": {"heads": {"fused_logits": {"top1": 81.25}}}},
        "price": 2.0,
        "report": None,
        "working": frozenset(),
    }
    return live_page.Now(at=time.time(), host="h", found=found, cache=cache, cache_at=time.time(), **(given | more))


def text_of(html: str) -> str:
    """What a person reads."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def test_page__says_what_is_known_and_escapes_what_comes_from_files(tmp_path: Path, repository: Path) -> None:
    root = run_root(tmp_path)
    with held(root / "distill" / "0123456789abcdef"), edited(repository / "code.py", "y\n"):
        html = live_page.document(now(live_runs.read(root), live_cache.answer(repository), report="/report"), live=True)
    said = text_of(html)
    assert "distill at work now. 0 of 4 stages have nothing to do (2 stale, 2 after those)." in said
    for words in ("step 120 of 200 · loss 2.5 · 128 images/s · 25% of the time waiting for data · 2.0 GB", "48 s left",
                  "1 h 0 min", "2 h 0 min", "4.00", "40 GPU-h", "81.25", "400",
                  "batches of 64, fp32, 2.00 GB, a &lt;processor&gt;", "50", "batches of 8",
                  "code 2", "The report"):  # fmt: skip
        assert words in said, words
    assert "GPU-hours of that 2 seconds" in said and "that cost 4.00" in said  # an hour on two GPUs, at 2 each
    assert "<b>such" not in html and "no &lt;b&gt;such" in html
    assert html.count("<script>") == 1 and "http://" not in html and "https://" not in html and "style=" not in html
    alone = live_page.document(now(live_runs.read(root), {}), live=False)
    assert "<script" not in alone and "DVC is being asked" in alone and "No report yet" in alone


def test_page__of_nothing_at_all_and_of_damage_is_a_page(tmp_path: Path) -> None:
    empty = live_page.document(
        now(live_runs.read(tmp_path / "absent"), {"error": "<x>"}, price=0.0, metrics={}), live=False
    )
    assert "Nothing runs now." in text_of(empty) and "&lt;x&gt;" in empty and "make check" in empty
    damage(run_root(tmp_path / "r"))
    assert "What could not be read" in live_page.document(now(live_runs.read(tmp_path / "r"), {}), live=False)


def test_policy__names_the_script_and_styles_that_are_in_the_page() -> None:
    assert (
        live_page._hash(live_page.SCRIPT) in live_page.POLICY and live_page._hash(live_page.STYLES) in live_page.POLICY
    )
    assert "unsafe" not in live_page.POLICY


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (59.6, "1 min 0 s"),
        (61, "1 min 1 s"),
        (3600, "1 h 0 min"),
        (90061, "1 d 1 h"),
        (None, "unknown"),
        (float("inf"), "unknown"),
    ],
)
def test_duration(seconds: float | None, words: str) -> None:
    assert live_page.duration(seconds) == words


def test_plot__ticks_are_round_and_every_point_lies_inside() -> None:
    assert live_plot.ticks(0.9, 2.1) == [10, 20, 50, 100] and live_plot.levels(70, 84) == [70, 75, 80]
    found = [
        live_plot.Point(f"m{n}", rate, "", top1)
        for n, (rate, top1) in enumerate(((1.0, 0.0), (1e5, 100.0), (300.0, 81.2)))
    ]
    drawn = live_plot.picture(found)
    places = [float(value) for value in re.findall(r'c[xy]="([\d.-]+)"', drawn)]
    assert len(places) == 6 and all(0 < place < live_plot.WIDTH for place in places) and drawn.count("<circle") == 3
    assert live_plot.picture(found[:1]).count("<circle") == 1


@pytest.fixture
def served(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[loopback.Server, live.Page]]:
    """The page, served from this process."""
    monkeypatch.chdir(repository)
    monkeypatch.setenv("TUTELAGE_RUNS", str(run_root(tmp_path / "runs")))
    page = live.Page()
    server = loopback.Server(page.respond, 0)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield server, page
    server.shutdown()
    server.server_close()


def get(server: loopback.Server, path: str) -> tuple[int, str, dict[str, str]]:
    """(status, body, headers)."""
    line = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    with contextlib.closing(line):
        line.request("GET", path)
        answer = line.getresponse()
        return answer.status, answer.read().decode(), dict(answer.getheaders())


def test_server__answers_at_once_and_says_what_dvc_said_when_it_has(served: tuple[loopback.Server, live.Page]) -> None:
    """DVC is asked once, in the background; again after an edit, but not at every look."""
    server, page = served
    status, text, headers = get(server, "/")
    assert (
        status == 200
        and "DVC is being asked" in text
        and headers["Content-Security-Policy"].startswith(live_page.POLICY)
    )
    until = time.monotonic() + 60
    while "4 of 4 stages have nothing to do" not in text_of(text) and time.monotonic() < until:
        time.sleep(0.2)
        text = get(server, "/now")[1]
    assert "4 of 4 stages have nothing to do" in text_of(text) and "<html" not in text
    asked = page.asked_at
    get(server, "/now")
    assert page.asked_at == asked
    page.asked_at -= live.LEAST_SECONDS
    get(server, "/now")
    assert page.asked_at == asked - live.LEAST_SECONDS  # nothing has changed
    Path("params.yaml").touch()
    get(server, "/now")
    assert page.asked_at > asked
    assert get(server, "/report")[0] == 404 and get(server, "/../params.yaml")[0] == 404


def test_working__by_dvcs_own_note_of_a_process_that_lives(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)
    cache = {"stages": [{"name": "distill", "outs": ["model"]}]}
    trouble = live_runs.Trouble()
    for pid, wanted in ((os.getpid(), {"distill"}), (2**22 + 5, set())):
        note = {"write": {str(repository / "model"): {"pid": pid, "cmd": "dvc repro"}}, "read": {}}
        write(repository / ".dvc/tmp/rwlock", note)
        assert live.at_work(cache, trouble) == wanted
    write(repository / ".dvc/tmp/rwlock", b"{")
    assert live.at_work(cache, trouble) == frozenset() and len(trouble.sentences) == 1
    (repository / ".dvc/tmp/rwlock").unlink()


def test_command__writes_one_file_that_opens_alone(repository: Path, tmp_path: Path) -> None:
    """`python -m stages.report --live --once FILE`, as a person types it; the report's own note of its end stays."""
    note = write(tmp_path / "runs" / "report" / "last_exit.json", {"code": 0, "reason": "finished", "retryable": False})
    place = tmp_path / "there" / "live.html"
    done = subprocess.run(
        [sys.executable, "-m", "stages.report", "--live", "--once", str(place)],
        cwd=repository,
        env=environment() | {"TUTELAGE_RUNS": str(tmp_path / "runs")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0 and done.stdout == f"{place}\n", done.stderr
    text = place.read_text()
    assert "4 of 4 stages have nothing to do." in text_of(text) and "<script" not in text and note.exists()
