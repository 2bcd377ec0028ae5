"""The stage: writes the page, refuses with names, and sums up for the end of `make demo`."""

import hashlib
import sys
from pathlib import Path

import pytest

from stages import report
from stages.lib.core.outcome import Refusal
from tests.reporting import fabricate


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fabricated run in the current folder."""
    data = fabricate.whole(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["report"])
    return data


def digests(folder: Path) -> dict[str, str]:
    """Every file's hash."""
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def test_report__writes_the_page_and_touches_nothing_else(workspace: Path) -> None:
    before = digests(workspace)
    report.main()
    after = digests(workspace)
    assert set(after) - set(before) == {str(workspace / "reports" / "index.html")} and before.items() <= after.items()
    report.main()
    assert digests(workspace) == after


def test_report__reads_only_what_dvc_yaml_declares(workspace: Path) -> None:
    """Files of other stages beside the declared folders change nothing, whatever they hold."""
    report.main()
    page = report.PAGE.read_bytes()
    for name in (
        "models/student/config.json",
        "manifest/digits-7-9-rejected.csv",
        "gates/model-mae.json",
        "predictions/x.json",
    ):
        (workspace / name).parent.mkdir(parents=True, exist_ok=True)
        (workspace / name).write_text("{ damaged")
    report.main()
    assert report.PAGE.read_bytes() == page


def test_report__a_damaged_input_leaves_the_old_page(workspace: Path) -> None:
    report.main()
    page = report.PAGE.read_bytes()
    (workspace / "metrics" / "student.json").write_text("{")
    with pytest.raises(Refusal, match=r"data/metrics/student\.json is not JSON"):
        report.main()
    assert report.PAGE.read_bytes() == page


@pytest.mark.usefixtures("workspace")
def test_report__title_and_worst_classes_come_from_params() -> None:
    Path("params.yaml").write_text(
        "sets: {main: digits-0-6, transfer: []}\nreport: {title: Other words, worst_classes: 0}\n"
    )
    report.main()
    page = report.PAGE.read_text()
    assert "<h1>Other words</h1>" in page and "worst of" not in page


@pytest.mark.usefixtures("workspace")
def test_report__refuses_an_argument_it_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["report", "--sumary"])
    with pytest.raises(Refusal, match=r"--sumary.*--summary"):
        report.main()


def test_summary__says_where_and_how_good(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["report", "--summary"])
    (workspace / "gate-details" / "model-mae.json").write_text("{ damaged, but not read here")
    before = digests(workspace)
    report.main()
    assert digests(workspace) == before
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "From raw digits to a distilled transformer"
    rows = [line.split() for line in lines]
    assert ["teacher", "digits-0-6", "215", "96.74", "-", "-", "14.29"] in rows
    assert ["student", "digits-0-6", "215", "97.28", "96.81", "97.74", "14.29"] in rows
    assert ["transfer-digits-7-9", "digits-7-9", "107", "97.67", "97.20", "98.13", "33.33"] in rows
    assert "not made yet" in lines[-1]


def test_summary__before_anything_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "params.yaml").write_text(fabricate.PARAMS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["report", "--summary"])
    report.main()
    assert "Nothing has been measured yet" in capsys.readouterr().out
