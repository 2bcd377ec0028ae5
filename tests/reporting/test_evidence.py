"""What probes, heads, tokens, calibration and albums say stands on the page, with file, place and command; and what is absent."""

import json
import re
from pathlib import Path

import pytest

from stages.lib.params.report import Report
from stages.lib.params.sets import Sets
from stages.lib.reporting import (
    album,
    calibration,
    commands,
    compared,
    heads,
    papers,
    probed,
    robust,
    sets,
    transferred,
)
from stages.lib.reporting.inputs import Folder
from stages.lib.reporting.material import Material, gather
from tests import closure
from tests.reporting import fabricate
from tests.reporting.reading import read

REPORT = Report(title="Digits", worst_classes=3)
SETS = Sets(main="digits-0-6", transfer=["digits-7-9"])


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fabricated run in the current folder."""
    found = fabricate.whole(tmp_path)
    monkeypatch.chdir(tmp_path)
    return found


def material() -> Material:
    return gather(REPORT, SETS, Folder(Path("data")))


def charts_of(html: str) -> list[dict]:
    """The data of every chart."""
    return [json.loads(content) for kind, content in read(html).scripts if kind == "application/json"]


@pytest.mark.usefixtures("data")
def test_heads__every_disagreement_is_shown_beside_the_papers() -> None:
    html = heads.section(material())
    cited = {(shown, title) for shown, title, _ in read(html).cited}
    numbers = json.loads(Path("data/metrics/agreement.json").read_text())
    for model in heads.LISTENERS:
        for pair, value in numbers[model].items():
            assert (f"{value:.2f} %", f"data/metrics/agreement.json: {model}.{pair}") in cited
    rows = {
        row["pair"]: row["percent"]
        for chart in charts_of(html)
        for row in chart["data"]["values"]
        if "pair" in row and row["who"] == "student"
    }
    assert rows["class head and both heads"] == numbers["student"]["class_fused_logits"] and len(rows) == len(
        papers.DISAGREEMENT
    )
    assert "dvc repro agree" in html


@pytest.mark.parametrize(
    ("pair", "words"),
    [("dist_fused_logits", "distillation head and both heads"), ("fused_logits_label", "both heads and label")],
)
def test_words__of_a_pair(pair: str, words: str) -> None:
    assert heads.words(pair) == words


@pytest.mark.usefixtures("data")
def test_tokens__every_layer_with_its_band() -> None:
    (chart,) = charts_of(heads.tokens(material(), material().models["student"]))
    assert chart["data"]["values"][0] == {"layer": 0.0, "cosine": 0.06, "low": 0.02, "high": 0.1}
    assert [row["layer"] for row in chart["data"]["values"]] == [0, 1, 2, 3, 4]


def test_tokens__a_model_of_one_token_says_so(data: Path) -> None:
    (data / "plots" / "student-tokens.csv").write_text("layer,cosine,low,high\n")
    assert "has one token" in heads.tokens(material(), material().models["student"])


@pytest.mark.usefixtures("data")
def test_probe__every_number_and_a_slide_a_ratio() -> None:
    found = material()
    cited = {(shown, title.partition(": ")[2]) for shown, title, _ in read(probed.features(found)).cited}
    assert {("77.38 %", "knn.top1"), ("19", "knn.k"), ("64.68 %", "linear.top1_low")} <= cited
    slides = probed.painted(found)
    assert ("0.65", "data/metrics/probe.json: reconstruction.75.loss") in {one[:2] for one in read(slides).cited}
    assert (
        re.findall(r'data-name="(\d+) %"', slides) == ["50", "75", "90"]
        and 'max="2"' in slides
        and 'value="1"' in slides
    )


def test_probe__a_ratio_without_its_picture_is_no_slide(data: Path) -> None:
    (data / "samples" / "mae-75.png").unlink()
    assert re.findall(r'data-name="(\d+) %"', probed.painted(material())) == ["50", "90"]


@pytest.mark.usefixtures("data")
def test_calibration__empty_bins_are_left_out_and_heads_keep_their_numbers() -> None:
    html = calibration.section(material())
    teacher, student, _ = charts_of(html)
    assert len(teacher["data"]["values"]) == 4 and len(student["data"]["values"]) == 16
    assert {row["head"] for row in student["data"]["values"]} == {
        "class head",
        "distillation head",
        "both, mean logits",
        "both, mean softmax",
    }
    assert student["data"]["values"][4]["accuracy"] == pytest.approx(0.28) and "NaN" not in html


@pytest.mark.usefixtures("data")
def test_album__a_tile_shows_its_own_place() -> None:
    html = album.section(material())
    tiles = re.findall(r'aria-label="([^"]*)" style="background-position:([\d.]+)% ([\d.]+)%"', html)[:27]
    assert tiles[0] == ("0 taken for 0", "0.0000", "0.0000")
    assert tiles[13] == ("6 taken for 0", f"{100 / 11:.4f}", "50.0000")  # second row of three, second of twelve
    assert tiles[26][1:] == (f"{200 / 11:.4f}", "100.0000")
    assert html.count('class="wrong"') == 3 * 3 and html.count('data-kind="sample"') == 3 * 12


def test_album__a_place_that_is_no_number_is_refused(data: Path) -> None:
    path = data / "plots" / "student-images.csv"
    path.write_text(path.read_text().replace("best,0,", "best,first,"))
    with pytest.raises(Exception, match=r"data/plots/student-images\.csv has 'first' in column place, line 2"):
        album.section(material())


@pytest.mark.usefixtures("data")
def test_compared__ours_beside_the_published() -> None:
    (chart,) = charts_of(compared.section(material()))
    rows = {row["name"]: row for row in chart["data"]["values"]}
    own = rows["Student on digits-0-6"]
    assert (own["top1"], own["millions"], own["gmacs"], own["own"]) == (97.7442, 0.452103, 0.00876543, True)
    assert rows["DeiT-B distilled"] == {
        "name": "DeiT-B distilled",
        "family": "DeiT distilled",
        "top1": 83.4,
        "own": False,
    } | {
        "millions": 87.338,
        "gmacs": 17.657,
        "images_per_second": 290.9,
    }
    assert {row["family"] for row in rows.values()} == {family for family, _ in compared.FAMILIES}


def test_papers__macs_follow_from_the_formula() -> None:
    """12 n D^2 + 2 n^2 D a block, L D 3 p^2 to embed, D K a head: independent of any counter."""
    sizes = {
        "DeiT-Ti": (12, 192, 196, 1),
        "DeiT-S": (12, 384, 196, 1),
        "DeiT-B": (12, 768, 196, 1),
        "ViT-L, MAE": (24, 1024, 196, 1),
    }
    sizes |= {
        "DeiT-B at 384": (12, 768, 576, 1),
        "DeiT-B distilled": (12, 768, 196, 2),
        "DeiT-S distilled": (12, 384, 196, 2),
    }
    by_name = {one.name: one for one in papers.PUBLISHED}
    for name, (depth, width, patches, extra) in sizes.items():
        n = patches + extra
        macs = patches * width * 768 + depth * (12 * n * width**2 + 2 * n**2 * width) + extra * width * 1000
        assert macs / 1e9 == pytest.approx(by_name[name].gmacs, rel=2e-3), name


@pytest.mark.usefixtures("data")
def test_quarantine__names_what_was_kept_out_and_why() -> None:
    html = sets.quarantined(material(), "digits-0-6")
    assert (
        "3/broken&lt;1&gt;.png" in html and "truncated after 57 bytes" in html and "dvc repro ingest@digits-0-6" in html
    )
    assert "data/manifest/digits-7-9-rejected.csv" in sets.quarantined(material(), "digits-7-9").replace("<wbr>", "")


def test_quarantine__empty_is_said(data: Path) -> None:
    fabricate.rejected(data, "digits-0-6", {})
    assert "Quarantine is empty" in sets.quarantined(material(), "digits-0-6")


def test_robust__both_models_and_every_head(data: Path) -> None:
    heads_of = {"class": {"top1": 41.25, "top1_low": 35.5, "top1_high": 47.75, "nll": 2.0}}
    values = {"set": "other", "main": "digits-0-6", "images": 240, "classes": 5, "student": {"heads": heads_of}}
    fabricate.write_json(data / "metrics" / "robust-other.json", values)
    found = gather(REPORT, Sets(main="digits-0-6", transfer=[], robust=["other", "gone"]), Folder(Path("data")))
    html = robust.section(found)
    cited = {(shown, title) for shown, title, _ in read(html).cited}
    assert ("41.25 %", "data/metrics/robust-other.json: student.heads.class.top1") in cited
    assert "dvc repro robust@gone" in html and "dvc repro robust@other" in html
    assert robust.section(material()) == ""


def test_robust__real_labels_stand_beside_the_other_sets(data: Path) -> None:
    heads_of = {"class": {"top1": 61.5, "top1_low": 55.5, "top1_high": 67.75}}
    values = {"set": "digits-0-6", "images": 240, "unlabelled": 12, "student": {"heads": heads_of}}
    fabricate.write_json(data / "metrics" / "real-digits-0-6.json", values)
    html = robust.section(
        gather(REPORT, Sets(main="digits-0-6", transfer=[], real=["digits-0-6"]), Folder(Path("data")))
    )
    cited = {(shown, title) for shown, title, _ in read(html).cited}
    assert ("61.50 %", "data/metrics/real-digits-0-6.json: student.heads.class.top1") in cited
    assert "dvc repro real@digits-0-6" in html


def test_transferred__published_figures_stand_beside_a_set_of_the_same_name_alone(data: Path) -> None:
    fabricate.metrics(data, "transfer-cifar10", "cifar10", 10, heads=2, top1=95.25)
    found = gather(REPORT, Sets(main="digits-0-6", transfer=["digits-7-9", "cifar10", "gone"]), Folder(Path("data")))
    html = transferred.table(found)
    other, cifar = (part.partition("</tr>")[0] for part in html.split("<tr>")[-2:])
    assert "digits-7-9" in other and "99.2" not in other and "gone" not in html
    assert read(html).unsourced == []
    assert re.search(r"95\.25 %.*99\.1 %.*99\.2 %", cifar, re.DOTALL)
    assert transferred.table(gather(REPORT, Sets(main="digits-0-6", transfer=[]), Folder(Path("data")))) == ""


ABSENT = {
    "metrics/agreement.json": "dvc repro agree",
    "metrics/probe.json": "dvc repro probe",
    "plots/student-reliability.csv": "dvc repro evaluate@student",
    "plots/teacher-images.csv": "dvc repro look@teacher",
    "plots/finetuned-tokens.csv": "dvc repro attend@finetuned",
    "samples/student-attention.png": "dvc repro attend@student",
    "manifest/digits-0-6-rejected.csv": "dvc repro ingest@digits-0-6",
}


@pytest.mark.parametrize("name", ABSENT)
def test_sections__say_what_is_absent_and_what_makes_it(data: Path, name: str) -> None:
    (data / name).unlink()
    found = material()
    parts = [
        heads.section,
        probed.features,
        calibration.section,
        album.section,
        lambda one: sets.quarantined(one, "digits-0-6"),
    ]
    html = "".join(part(found) for part in parts).replace("<wbr>", "")
    assert f"There is no <code>data/{name}</code>; <code>{ABSENT[name]}</code> makes it." in html


def test_sections__with_nothing_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = material()
    assert "There is no" in heads.section(found) and probed.painted(found) == ""
    assert all("There is no" in part(found) for part in (calibration.section, album.section))
    assert "this run" in compared.section(found)


def outs() -> list[tuple[str, str]]:
    """(stage, out) of every stage of dvc.yaml that makes something the page may show, items of foreach filled in."""
    found = []
    for name, spec in closure.YML.load(closure.ROOT / "dvc.yaml")["stages"].items():
        items = spec.get("foreach")
        items = ["some-set"] if isinstance(items, str) else items or [""]
        body = spec.get("do", spec)
        for item in items:
            stage = f"{name}@{item}" if item else name
            texts = [str(out) for kind in ("outs", "metrics") for out in body.get(kind, [])]
            found += [(stage, re.sub(r"\$\{(item|key)\}", item, text)) for text in texts]
    return found


@pytest.mark.parametrize(
    ("stage", "out"),
    [
        one
        for one in outs()
        if one[1].startswith(("data/metrics", "data/plots", "data/history", "data/stored", "data/gate-details"))
    ],
)
def test_command__names_the_stage_that_has_the_file_as_its_out(stage: str, out: str) -> None:
    if out.endswith((".json", ".csv")):
        assert commands.stage(out) == stage


@pytest.mark.parametrize(
    ("stage", "out"), [one for one in outs() if one[1].startswith("data/samples") and "$" not in one[1]]
)
def test_command__of_pictures_too(stage: str, out: str) -> None:
    assert commands.stage(out) == stage


def test_command__of_a_file_nobody_makes_is_empty() -> None:
    assert commands.command("stages/lib/reporting/papers.py") == ""
