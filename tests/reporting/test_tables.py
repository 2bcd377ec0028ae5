"""Tables: intervals, heads, facts; confusion and worst classes; gates and damaged files."""

import re
from collections import Counter
from pathlib import Path

import pytest

from stages.lib.core.outcome import Refusal
from stages.lib.reporting import gates, markup, mistakes, tables
from stages.lib.reporting.inputs import Folder, Record
from stages.lib.reporting.mistakes import Confusion, OneClass
from stages.lib.reporting.sources import ABSENT, Fact, Ledger
from tests.reporting import fabricate
from tests.reporting.reading import read


def cells(html: str) -> list[list[str]]:
    """The words of a table's body, row by row."""
    body = html.split("<tbody>", 1)[1]
    rows = re.findall(r"<tr>(.*?)</tr>", body)
    return [[re.sub("<[^>]*>", "", cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in rows]


@pytest.mark.parametrize(
    ("percent", "images", "low", "high"),
    [(50, 100, 40.3832, 59.6168), (0, 10, 0, 27.7533), (100, 10, 72.2467, 100), (90, 10, 59.5850, 98.2124)],
)
def test_interval__wilson_as_tabulated(percent: float, images: int, low: float, high: float) -> None:
    """Known values, such as 9 of 10: 0.596 to 0.982 (Agresti and Coull 1998)."""
    assert tables.interval(percent, images) == pytest.approx((low, high), abs=5e-4)


def test_interval__ends_solve_the_score_equation() -> None:
    """Independent formula: at either end p the observed share is 1.96 standard errors sqrt(p(1-p)/n) away."""
    for end in tables.interval(97.7442, 215):
        share = end / 100
        assert abs(0.977442 - share) == pytest.approx(1.959964 * (share * (1 - share) / 215) ** 0.5, rel=1e-9)


def test_heads__in_order_with_only_what_was_measured(tmp_path: Path) -> None:
    two = Record("m.json", fabricate.metrics(tmp_path, "student", "s", 3, heads=2, top1=97.0))
    names = [row[0] for row in cells(tables.heads(two, Ledger()))]
    assert names == ["class head", "distillation head", "both, mean logits", "both, mean softmax"]
    assert "Top-5" not in tables.heads(two, Ledger())
    one = Record("m.json", fabricate.metrics(tmp_path, "teacher", "s", 7, heads=1, top1=97.0))
    assert cells(tables.heads(one, Ledger())) == [
        ["only head", "97.00 %94.29 % to 97.92 %", "99.50 %98.29 % to 99.81 %", "96.68 %", "2.13 %", "0.15"]
    ]
    assert (
        tables.agreement(one, Ledger()) == "" and tables.answer(one) == "class" and tables.answer(two) == "fused_logits"
    )


def test_ledger__one_line_a_place_and_the_value_in_full() -> None:
    ledger, fact = Ledger(), Fact(97.22222, "f.json", "a.b")
    assert "97.22 %" in ledger.percent(fact) and 'href="#s1"' in ledger.number(fact)
    assert "1,281,167" in ledger.number(Fact(1281167, "f.json", "n")) and ledger.number(None) == ABSENT
    assert [row[3] for row in cells(ledger.listing())] == ["97.22222", "1281167"]
    with pytest.raises(AssertionError):  # one place cannot hold two values
        ledger.number(Fact(1.0, "f.json", "a.b"))


def test_table__numbers_flush_right_names_not() -> None:
    html = markup.table("c", ["a", "n", "m"], [["x", "1,082", "1 to 2"], ["y", markup.DASH, "3"]], "f.csv")
    assert html.count('class="num"') == 3 and '<th scope="row">x</th>' in html and 'data-source="f.csv"' in html


COUNTS = Counter({("cat", "cat"): 8, ("cat", "dog"): 2, ("dog", "dog"): 5, ("dog", "cow"): 3, ("dog", "cat"): 3})


def test_confusion__counts_and_shades_by_share_of_the_row() -> None:
    html = mistakes.confusion(Confusion("c.csv", ["cat", "dog", "cow"], COUNTS))
    assert cells(html.replace("<tr><th", "<tr><th")) == [
        ["cat", "8", "2", ""],
        ["dog", "3", "5", "3"],
        ["cow", "", "", ""],
    ]
    assert (
        html.count('class="right h8"') == 1
        and html.count('class="wrong h2"') == 1
        and html.count('class="wrong h3"') == 2
    )
    assert 'title="cat taken for dog: 2 of 10"' in html


def test_confusion__many_classes_are_shown_as_pairs() -> None:
    names = [f"n{number:04d}" for number in range(41)]
    counts = Counter(
        {(name, name): 9 for name in names} | {("n0003", "n0001"): 3, ("n0002", "n0001"): 3, ("n0040", "n0000"): 1}
    )
    html = mistakes.confusion(Confusion("c.csv", names, counts))
    assert cells(html) == [
        ["n0002", "n0001", "3", "25.00 %"],
        ["n0003", "n0001", "3", "25.00 %"],
        ["n0040", "n0000", "1", "10.00 %"],
    ]
    assert "confusion" in mistakes.confusion(Confusion("c.csv", names[:40], counts))  # negative control: 40 fit


def test_worst__lowest_first_ties_by_name_unmeasured_left_out() -> None:
    classes = [
        OneClass("dog", 11, 45.45),
        OneClass("ape", 4, 80.0),
        OneClass("cat", 10, 80.0),
        OneClass("cow", 0, None),
    ]
    confusion = Confusion("c.csv", ["dog", "ape", "cat", "cow"], COUNTS)
    html = mistakes.worst(classes, "k.csv", confusion, 3)
    assert cells(html) == [
        ["dog", "11", "45.45 %", "cat (3)"],
        ["ape", "4", "80.00 %", markup.DASH],
        ["cat", "10", "80.00 %", "dog (2)"],
    ]
    assert "The 3 worst of 4 classes." in html


def test_confusion__read_from_plots_in_label_order(tmp_path: Path) -> None:
    fabricate.mistakes_of(tmp_path, "student", ["z", "a"], wrong=2)
    folder = Folder(tmp_path)
    found = mistakes.read_confusion(folder, "student", mistakes.read_classes(folder, "student"))
    assert found and found.classes == ["z", "a"] and found.pairs() == [("z", "a", 2), ("a", "z", 1)]
    assert mistakes.read_confusion(folder, "teacher", []) is None


def test_gate__an_expectation_in_words() -> None:
    one = {
        "table": "images",
        "type": "expect_column_values_to_be_between",
        "kwargs": {"column": "label", "min_value": 0},
    }
    assert read(f"<p>{gates.describe(one)}</p>").text == "images.label values to be at least 0"
    one["kwargs"] |= {"max_value": 30000, "mostly": 0.9}
    assert read(f"<p>{gates.describe(one)}</p>").text == "images.label values to be between 0 and 30,000 (mostly 0.9)"
    assert gates.brief(list(range(999))).endswith(" …") and gates.brief([1, 2]) == "1, 2"
    assert "<" not in gates.describe({"kwargs": {"column": "<x>"}}).replace("<code>", "").replace("</code>", "")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("history/mae.csv", "epoch,loss\n0,high\n", "'high' in column loss, line 2"),
        ("history/mae.csv", "epoch,lr\n0,1\n", "no column 'loss'"),
        ("history/mae.csv", "epoch,loss\n0\n", "too few or too many cells"),
        ("history/mae.csv", "", "no column 'epoch'"),
    ],
)
def test_history__damaged_is_refused_by_name(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / "history").mkdir()
    (tmp_path / name).write_text(content)
    with pytest.raises(Refusal, match=f"{name}.*{said}"):
        Folder(tmp_path).history("mae")


def test_history__empty_cells_are_not_zero(tmp_path: Path) -> None:
    (tmp_path / "history").mkdir()
    (tmp_path / "history" / "mae.csv").write_text("epoch,loss,val_loss\n0,2.0,\n1,1.5,0.25\n2,,nan\n")
    history = Folder(tmp_path).history("mae")
    assert (
        history
        and history.column("val_loss") == [(1.0, 0.25)]
        and history.last("loss") == Fact(1.5, history.file, "loss, epoch 1")
    )
    assert history.epochs() == Fact(2, history.file, "rows with a loss")


def test_picture__size_and_refusal(tmp_path: Path) -> None:
    fabricate.picture(tmp_path / "samples" / "mae.png", 2, 3, size=8)
    picture = Folder(tmp_path).picture("mae")
    assert (
        picture and (picture.width, picture.height) == (28, 19) and picture.address.startswith("data:image/png;base64,")
    )
    (tmp_path / "samples" / "mae.png").write_bytes(b"GIF89a")
    with pytest.raises(Refusal, match=r"mae\.png is not a PNG"):
        Folder(tmp_path).picture("mae")
