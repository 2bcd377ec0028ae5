"""The page says what the files say, where it stands, and nothing else."""

import hashlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from base64 import b64encode
from html import unescape
from pathlib import Path

import pytest

from stages.lib.core.outcome import Refusal
from stages.lib.params.report import Report
from stages.lib.params.sets import Sets
from stages.lib.reporting import library
from stages.lib.reporting.inputs import Folder
from stages.lib.reporting.page import page
from tests.conftest import ROOT
from tests.reporting import fabricate
from tests.reporting.reading import Read, read

REPORT = Report(title="Digits & <transformers>", worst_classes=3)
SETS = Sets(main="digits-0-6", transfer=["digits-7-9"])
PAGE = """
from pathlib import Path
import sys
from stages.lib.params.report import Report
from stages.lib.params.sets import Sets
from stages.lib.reporting import library
from stages.lib.reporting.inputs import Folder
from stages.lib.reporting.page import page
report, sets = Report(title="Digits & <transformers>", worst_classes=3), Sets(main="digits-0-6", transfer=["digits-7-9"])
sys.stdout.write(page(report, sets, Folder(Path("data"))))
"""


def build(sets: Sets = SETS, report: Report = REPORT) -> str:
    """The page of the data folder under the current one."""
    return page(report, sets, Folder(Path("data")))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, Read]:
    """(folder, page, what it holds) of a whole fabricated run."""
    root = tmp_path_factory.mktemp("run")
    fabricate.whole(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        html = build()
    return root, html, read(html)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fabricated run of a test's own, in the current folder."""
    data = fabricate.whole(tmp_path)
    monkeypatch.chdir(tmp_path)
    return data


def leaves(values: dict, path: str = "") -> dict[str, float]:
    """Dotted key -> number, of nested mappings."""
    found: dict[str, float] = {}
    for key, value in values.items():
        at = f"{path}.{key}" if path else key
        found |= leaves(value, at) if isinstance(value, dict) else {at: value} if not isinstance(value, str) else {}
    return found


def shown(key: str, value: float) -> str:
    """How a reader expects a number of data/metrics: percent to two places, counts with thousands, nats to four figures."""
    if key.endswith("nll"):
        return f"{value:.4g}"
    return f"{value:.2f} %" if isinstance(value, float) else f"{value:,}"


@pytest.mark.parametrize("model", ["teacher", "student", "finetuned", "transfer-digits-7-9"])
def test_page__every_metric_is_shown_with_its_file_and_key(finished: tuple[Path, str, Read], model: str) -> None:
    root, _, found = finished
    file = f"data/metrics/{model}.json"
    cited = {(text, title) for text, title, _ in found.cited}
    numbers = leaves(json.loads((root / file).read_text()))
    classes = {"classes"} if model != "student" else set()  # only the headline says them in so many words
    for key in numbers.keys() - classes:
        assert (shown(key, numbers[key]), f"{file}: {key}") in cited, key
    assert (f"{100 / numbers['classes']:.2f} %", f"{file}: 100 / classes") in cited


def test_page__what_shards_cost_and_lost_is_shown(finished: tuple[Path, str, Read]) -> None:
    cited = {(text, title.partition(": ")[2]) for text, title, _ in finished[2].cited if "data/stored" in title}
    assert {
        ("118,765,432", "original_bytes"),
        ("58,765,431", "stored_bytes"),
        ("0.4948", "stored_share"),
        ("40.71", "coding_psnr_db.mean"),
        ("31.64", "crop_psnr_db.p5"),
        ("321", "store.short_side"),
        ("nothing", "lost"),
    } <= cited


def test_page__no_number_stands_without_a_source(finished: tuple[Path, str, Read]) -> None:
    allowed = {"arXiv 2111.06377", "arXiv 2012.12877", "95 %"}
    rest = [re.sub("|".join(allowed), "", text) for text in finished[2].unsourced]
    rest = [text for text in rest if re.search(r"(?<!top-)(?<!Top-)\d", text)]
    assert rest == []
    assert read("<p>accuracy 97.2 %</p>").unsourced  # negative control: such a number would be seen


def test_page__every_number_leads_to_its_line_in_the_list(finished: tuple[Path, str, Read]) -> None:
    _, html, found = finished
    assert len(found.ids) == len(set(found.ids))
    assert {link for link in found.links if link[1:] not in found.ids} == set()
    lines = dict(re.findall(r'<span id="s(\d+)">(.*?)</tr>', html))
    for _, title, href in found.cited:
        file, _, key = title.partition(": ")
        plain = re.sub("<[^>]*>", "\n", lines[href[2:]].replace("<wbr>", "")).split("\n")
        assert file in plain and key in plain


def test_page__loads_nothing(finished: tuple[Path, str, Read]) -> None:
    _, html, found = finished
    ours = html.replace(
        library.bundle(), ""
    )  # the library names XML's name spaces; tests/browser sees that it fetches nothing
    assert "://" not in ours and "@import" not in html and "url(" not in html.split("</style>")[0]
    assert found.loaded and all(address.startswith("data:") for address in found.loaded)
    assert not found.tags & {"iframe", "object", "embed", "video", "form"}
    assert "default-src 'none'" in html


def test_page__runs_one_script_whose_hash_the_policy_holds(finished: tuple[Path, str, Read]) -> None:
    _, html, found = finished
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    allowed = unescape(policy).split("script-src ")[1].split()
    (script,) = [content for kind, content in found.scripts if kind != "application/json"]
    assert [f"'sha256-{b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"] == allowed
    assert not re.search(r"\son\w+=", html.replace(script, "")), "an attribute that would run"


def test_page__every_chart_and_picture_has_a_name_and_its_numbers(finished: tuple[Path, str, Read]) -> None:
    _, html, found = finished
    assert found.labels and all(words for _, words in found.labels), found.labels
    charts = html.split('<div class="chart">')[1:]
    assert len(charts) == len([kind for kind, _ in found.scripts if kind == "application/json"]) > 10
    for one in charts:
        assert one.index("<script") < one.index("<details>") < one.index("<table")
    for kind, content in found.scripts:
        assert kind == "module" or json.loads(content)["data"]["values"]


def test_page__headings_go_down_one_step_at_a_time(finished: tuple[Path, str, Read]) -> None:
    levels = [int(level) for level in re.findall(r"<h(\d)", finished[1].split('<script type="module"')[0])]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_page__depends_on_its_inputs_alone(finished: tuple[Path, str, Read], tmp_path: Path) -> None:
    """Another process, hash seed, folder, time zone and language: the same bytes."""
    root, html, _ = finished
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(root, elsewhere)
    environment = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "PYTHONPATH": str(ROOT), "LC_ALL": "C"}
    command = [sys.executable, "-c", PAGE]
    again = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, check=True)
    assert again.stdout.decode() == html
    # the short name of a host may well stand by chance in a megabyte of JavaScript, or in a picture's base64
    ours = re.sub(r"base64,[\w+/=]+", "", html.replace(library.bundle(), ""))
    for secret in (str(root), str(elsewhere), os.uname().nodename):
        assert secret not in ours
    assert str(root) not in html and str(ROOT) not in html


def test_page__a_changed_metric_changes_the_page(workspace: Path) -> None:
    before = build()
    path = workspace / "metrics" / "student.json"
    values = json.loads(path.read_text())
    values["heads"]["dist"] |= {"top1": 12.3456, "top1_low": 9.8765, "top1_high": 15.4321}
    fabricate.write_json(path, values)
    after = build()
    assert "12.35 %" in after and "12.35 %" not in before


def test_page__names_are_text_whatever_they_hold(workspace: Path) -> None:
    evil = ["<script>alert(1)</script>", 'a"b&c', "<img src=x>"]
    shutil.rmtree(workspace / "plots")
    fabricate.mistakes_of(workspace, "student", evil, wrong=5)
    fabricate.gate(workspace, "manifest-digits-0-6", classes=evil)
    values = fabricate.gate(workspace, "model-student", passed=False)
    values["about"] = values["expectations"][0]["why"] = "<script>1</script>"
    fabricate.write_json(workspace / "gate-details" / "model-student.json", values)
    found = read(build())
    (script,) = [content for kind, content in found.scripts if kind != "application/json"]
    assert script == library.bundle() and "x" not in found.loaded
    assert all(found.text.count(name) >= 3 for name in evil)
    assert "Digits & <transformers>" in found.text


GONE = {
    "metrics/student.json": "The student has not been measured yet",
    "metrics/teacher.json": "its teacher has not been measured",
    "metrics": "No model has been measured yet",
    "history": "data/history/mae.csv",
    "samples": "data/samples/mae.png",
    "plots": "No model's predictions have been written yet",
    "gate-details": "has not been through its gate yet",
    "stored/digits-0-6.json": "Its shards have not been built yet",
    "history/transfer-digits-7-9.csv": "It has not been trained: there is no data/history/transfer-digits-7-9.csv",
}


@pytest.mark.parametrize("gone", GONE)
def test_page__what_is_missing_is_said(workspace: Path, gone: str) -> None:
    assert GONE[gone] not in read(build()).text.replace("data/samples/mae.png", "").replace("data/history/mae.csv", "")
    path = workspace / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    found = read(build())
    assert GONE[gone] in found.text and {link for link in found.links if link[1:] not in found.ids} == set()


def test_page__nothing_at_all_is_still_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = read(build())
    assert "The student has not been measured yet" in found.text and found.cited == []


@pytest.mark.usefixtures("workspace")
def test_page__no_transfer_sets() -> None:
    text = read(build(Sets(main="digits-0-6", transfer=[]))).text
    assert "No transfer set is named" in text and "digits-7-9" not in text


def test_page__shows_only_what_params_name(workspace: Path) -> None:
    fabricate.metrics(workspace, "transfer-old-set", "old-set", 3, heads=1, top1=13.13)
    fabricate.metrics(workspace, "somebody", "digits-0-6", 7, heads=1, top1=24.24)
    text = read(build()).text
    assert "old-set" not in text and "13.13" not in text and "24.24" not in text


def test_page__a_fetched_teacher_has_no_curve(workspace: Path) -> None:
    (workspace / "history" / "teacher.csv").write_text("epoch,loss,lr,val_loss,val_top1\n0,,,,98.6\n")
    html = build()
    teacher = html[html.index('id="teacher"') : html.index('id="mae"')]
    assert "It was fetched, not trained here" in teacher and 'class="chart"' not in teacher and "98.60 %" in teacher


def test_page__a_failed_gate_names_its_rows(workspace: Path) -> None:
    fabricate.gate(workspace, "model-mae", passed=False)
    html = build()
    assert '<details open="open" data-source="data/gate-details/model-mae.json">' in html
    assert html.count("✗ gate failed") == 1 and "key 3/img&lt;0042&gt;" in html


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"heads": {"class": {}}}, "has {} for heads.class, where top1 and nll belong"),
        (
            {"heads": {"class": {"top1": 250.0, "nll": 1.0}}},
            "has 250.0 for heads.class.top1; allowed: 0 to 100 per cent",
        ),
        ({"model": None}, "has None for model, where a name belongs"),
        ({"images": 0}, "has 0 for images, where a whole number above 0 belongs"),
    ],
)
def test_page__metrics_without_their_numbers_are_refused_by_name(
    workspace: Path, change: dict[str, object], words: str
) -> None:
    """A stage writes them whole: what is missing or impossible was done to the file afterwards."""
    path = workspace / "metrics" / "teacher.json"
    fabricate.write_json(path, json.loads(path.read_text()) | change)
    with pytest.raises(Refusal, match=re.escape(words)):
        build()


@pytest.mark.parametrize("name", ["metrics/student.json", "gate-details/model-mae.json", "stored/digits-7-9.json"])
@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff\xfe", b""])
def test_page__a_damaged_file_is_refused_by_name(workspace: Path, name: str, content: bytes) -> None:
    (workspace / name).write_bytes(content)
    with pytest.raises(Refusal, match=f"data/{name} .*dvc checkout --force data/{name}"):
        build()
