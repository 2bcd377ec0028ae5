"""report compare, as a person calls it: folders, workspace, revisions, experiments; what cannot be compared is refused."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages import compare
from stages.lib.core.outcome import Refusal
from stages.lib.data import predictions
from tests.workspace import environment

N = 200
LABELS = np.arange(N, dtype=np.int32) % 4
STAMP = ["model " + "1" * 64, "index " + "2" * 64]


def write(folder: Path, wrong: set[int], stamp: list[str] = STAMP, **columns: Any) -> None:
    """A run's predictions and metrics: every image right but for `wrong`; the class head alone also errs on image 199."""
    own = LABELS + np.isin(np.arange(N), list(wrong)).astype(np.int32)
    other = own.copy()
    other[199] = 9
    values: dict[str, Any] = {
        "key": [f"val/{n:03d}" for n in range(N)],
        "label": LABELS,
        "class_top1": other,
        "fused_logits_top1": own,
    }
    values |= {"fused_logits_top1": own, "model_top1": own, **columns}
    arrays = {name: pa.array(one) for name, one in values.items()}
    (folder / "metrics").mkdir(parents=True, exist_ok=True)
    predictions.write(folder / "predictions/student.parquet", arrays, "toy", "val", stamp)
    tops = {head: 100 * float((values[f"{head}_top1"] == LABELS).mean()) for head in ("class", "fused_logits")}
    counts = {"images": N, "classes": 4, "image_size": 8, "parameters": 5}
    metrics = {"model": "student", "set": "toy", "split": "val", **counts, "stamp": stamp}
    heads = {head: {"top1": round(top1, 4), "nll": 0.5} for head, top1 in tops.items()}
    (folder / "metrics/student.json").write_text(json.dumps(metrics | {"heads": heads}))


def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    monkeypatch.setattr(sys, "argv", ["compare", *words])
    compare.main()
    return capsys.readouterr().out


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a", set(range(30)))
    write(tmp_path / "b", set(range(20, 24)))
    write(tmp_path / "c", set(range(29)) | {50})
    write(tmp_path / "data", set(range(28)))
    return tmp_path


@pytest.mark.usefixtures("runs")
def test_compare__folders_and_the_workspace(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = said(monkeypatch, capsys, "a", "b")
    assert text.startswith("student, the model's own answer, on the same 200 val images of toy\n")
    assert "top-1  85.00 %, 95 % 80.00 to 90.00" in text and "top-1  98.00 %" in text and "B - A: +13.00 points" in text
    assert "A alone right on 0 images, B alone on 26: McNemar exact p = 2.98e-08" in text
    assert "Verdict: B is 13.00 points better than A, more than noise explains (200 images: +" in text
    text = said(monkeypatch, capsys, "a", "workspace")
    assert "B - A: +1.00 points" in text and "which may well be noise" in text
    assert "no difference to explain" in said(monkeypatch, capsys, "a", "./a")
    assert "top-1  84.50 %" in said(monkeypatch, capsys, "a", "b", "--head", "class")


@pytest.mark.usefixtures("runs")
def test_compare__several_seeds_a_side(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(monkeypatch, capsys, "a,c,workspace", "b,b")
    assert "A  3 seeds: mean 85.33 %, sd 0.58" in text and "B  2 seeds: mean 98.00 %, sd 0.00" in text
    assert "Welch p = " in text and "McNemar" not in text and "more than noise explains" in text
    assert "B is one run" in said(monkeypatch, capsys, "a,c", "b")


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a"], "two sides belong here, 1 were given; use: python -m stages.report compare A B"),
        (["a", "b,"], "two sides"),
        (["a", "b", "--heads", "class"], "unknown or incomplete argument '--heads'"),
        (["a", "b", "--model"], "incomplete argument '--model'"),
        (["a", "b", "--head", "last"], "--head 'last' is none of class, dist"),
        (
            ["a", "b", "--head", "dist"],
            r"a/predictions/student\.parquet of a has no head 'dist'; it has class, fused_logits",
        ),
        (["a", "b", "--model", "teacher"], r"There is no a/predictions/teacher\.parquet: .*evaluate@teacher"),
        (["a", "nowhere"], "'nowhere' is no folder, git revision or DVC experiment here"),
    ],
)
def test_compare__refuses(monkeypatch: pytest.MonkeyPatch, words: list[str], message: str) -> None:
    monkeypatch.setattr(sys, "argv", ["compare", *words])
    with pytest.raises(Refusal, match=message):
        compare.main()


def test_compare__refuses_other_images_labels_and_stale_metrics(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["compare", "a", "b"])
    old = (runs / "b/metrics/student.json").read_text()
    write(runs / "b", {1}, ["model " + "3" * 64, STAMP[1]])
    stale = (runs / "b/metrics/student.json").read_text()
    (runs / "b/metrics/student.json").write_text(old)
    with pytest.raises(Refusal, match=r"b: the metrics of student .*stale: they were made from different model"):
        compare.main()
    (runs / "b/metrics/student.json").write_text(stale.replace('"top1": 99.5', '"top1": 99.0'))
    with pytest.raises(Refusal, match=r"top1 is 99\.0, of the predictions 99\.5"):
        compare.main()
    (runs / "b/metrics/student.json").unlink()  # predictions alone will do
    compare.main()
    write(runs / "b", set(), label=(LABELS + 1) % 4)
    (runs / "b/metrics/student.json").unlink()
    with pytest.raises(Refusal, match="200 of 200 images have another label, the first is val/000 with 0 and 1"):
        compare.main()
    write(runs / "b", set(), key=[f"val/{n + 1:03d}" for n in range(N)])
    with pytest.raises(Refusal, match="2 keys are in one alone"):
        compare.main()


def test_report__lists_and_starts_it(runs: Path) -> None:
    """`python -m stages.report compare` becomes stages.compare, exit code and all."""
    (runs / "stages").symlink_to(Path(__file__).parents[1] / "stages")
    command = [sys.executable, "-m", "stages.report"]
    done = subprocess.run([*command, "compare", "a", "b"], capture_output=True, text=True, check=True)
    assert "Verdict: B is 13.00 points better" in done.stdout
    done = subprocess.run([*command, "compare", "a", "nowhere"], capture_output=True, text=True)
    assert done.returncode == 2 and "'nowhere' is no folder" in done.stderr
    (runs / "params.yaml").write_text("sets: {main: toy, transfer: []}\nreport: {title: T, worst_classes: 0}\n")
    done = subprocess.run([*command, "--help"], capture_output=True, text=True)
    assert done.returncode == 2 and "compare A B [--model student] [--head ...]" in done.stderr


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DVC repository: two commits that were measured, an experiment `better`, and a workspace."""
    folder = tmp_path_factory.mktemp("compared")
    do(folder, "git", "init", "-q", "-b", "main")
    do(folder, "dvc", "init", "-q")
    outs = "outs: [data/predictions/student.parquet]\n    metrics: [data/metrics/student.json]"
    (folder / "dvc.yaml").write_text(f"stages:\n  evaluate@student:\n    cmd: 'true'\n    {outs}\n".replace("@", "-"))
    for name, wrong in (("first", range(30)), ("second", range(20)), ("better", range(5))):
        write(folder / "data", set(wrong))
        do(folder, "dvc", "commit", "-f", "-q")
        do(folder, "git", "add", "-A")
        do(folder, "git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", name)
    head = do(folder, "git", "rev-parse", "HEAD").strip()
    do(folder, "git", "reset", "-q", "--hard", "HEAD~1")
    base = do(folder, "git", "rev-parse", "HEAD").strip()
    do(folder, "git", "update-ref", f"refs/exps/{base[:2]}/{base[2:]}/better", head)
    write(folder / "data", set())
    return folder


def do(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_compare__revisions_and_experiments_from_dvcs_cache(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(repository)
    assert "better" in do(repository, "dvc", "exp", "list", "--name-only")  # DVC too takes it for one
    text = said(monkeypatch, capsys, "HEAD~1,main", "better,workspace")
    tops = {"A  HEAD~1   ": 85, "A  main     ": 90, "B  better   ": 97.5, "B  workspace": 100}
    assert all(f"{name}  top-1 {top1:6.2f} %" in text for name, top1 in tops.items()), text
    commit = do(repository, "git", "rev-parse", "--short", "HEAD").strip()
    assert "no difference to explain" in said(monkeypatch, capsys, "main", commit)


def test_compare__what_the_cache_lacks_or_holds_damaged_is_refused(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone = Path(shutil.copytree(repository, tmp_path / "clone", symlinks=True))
    monkeypatch.chdir(clone)
    lock = do(clone, "git", "show", "main:dvc.lock")
    md5 = lock.split("predictions/student.parquet")[1].split("md5: ")[1].split("\n")[0]
    kept = clone / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    kept.chmod(0o644)
    kept.write_bytes(kept.read_bytes()[:-1] + b"?")
    monkeypatch.setattr(sys, "argv", ["compare", "main", "workspace"])
    message = rf"student\.parquet of main \(md5 {md5}\) is not in DVC's cache .*dvc get \. data/predictions/student"
    with pytest.raises(Refusal, match=message):
        compare.main()
    kept.unlink()
    with pytest.raises(Refusal, match=message):
        compare.main()
    monkeypatch.setattr(sys, "argv", ["compare", "HEAD~1", "worse"])
    with pytest.raises(Refusal, match=r"'worse' is no folder.*experiments: better"):
        compare.main()
    monkeypatch.setattr(sys, "argv", ["compare", "main", "workspace", "--model", "teacher"])
    with pytest.raises(Refusal, match=r"main has no data/predictions/teacher\.parquet in its dvc\.lock"):
        compare.main()


def test_predictions__of_before_stamps_are_read(tmp_path: Path) -> None:
    path = tmp_path / "student.parquet"
    columns = {"key": ["a"], "label": pa.array([1], pa.int32()), "class_top1": pa.array([1], pa.int32())}
    pq.write_table(pa.table(columns | {"model_top1": pa.array([1], pa.int32())}), path)
    found = predictions.read(path)
    assert (found.set_name, found.split, found.stamp) == ("", "", []) and list(found.heads) == ["class", "model"]
