"""Faults in what models were measured with, found by the page that shows it and by the export that publishes it."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stages import export, report
from tests.faults.fault import Bench, Fault, cut, files
from tests.reporting import fabricate

STUDENT, TEACHER = Path("data/metrics/student.json"), Path("data/history/teacher.csv")
CLASSES, DETAILS = Path("data/plots/student-classes.csv"), Path("data/gate-details/shards-digits-0-6.json")


class Page(Bench):
    """A finished run, told on a page."""

    kind = "metrics"

    def lay(self) -> None:
        """Every input of the report."""
        fabricate.whole(self.folder)

    def edit(self, change: Callable[[dict[str, Any]], Any]) -> None:
        """The student's metrics, changed in place."""
        content = json.loads(STUDENT.read_text())
        change(content)
        STUDENT.write_text(json.dumps(content))

    def look(self) -> None:
        """The stage."""
        self.where = "report"
        self.patch.setattr(sys, "argv", ["report"])
        report.main()

    def inputs(self) -> dict[str, bytes]:
        """Everything but the page."""
        return {name: data for name, data in files(Path("data")).items() if "reports" not in name}

    def kept(self) -> str:
        """No page tells what is not so."""
        assert not Path("data/reports/index.html").exists()
        return super().kept()


class Export(Page):
    """The same metrics, on the way into a model card."""

    kind = "metrics at export"

    def look(self) -> None:
        """As the stage reads them."""
        self.where = "export"
        export.evaluated(STUDENT, "student", "digits-0-6")


def head(key: str, value: Any) -> Callable[[Page], None]:
    """Another value for the class head."""
    return lambda bench: bench.edit(lambda values: values["heads"]["class"].update({key: value}))


def top(key: str, value: Any) -> Callable[[Page], None]:
    """Another value at the top."""
    return lambda bench: bench.edit(lambda values: values.update({key: value}))


SPOILT: dict[str, tuple[Callable[[Any], object], tuple[str, ...]]] = {
    "an accuracy that is no number": (head("top1", float("nan")), ("NaN",)),
    "an infinite likelihood": (head("nll", float("inf")), ("Infinity",)),
    "a word for an accuracy": (head("top1", "96.7"), ("'96.7' for heads.class.top1",)),
    "an accuracy of 250 per cent": (head("top1", 250), ("250 for heads.class.top1", "0 to 100")),
    "a negative accuracy": (head("top1", -3), ("-3 for heads.class.top1",)),
    "true for an accuracy": (head("top1", True), ("True for heads.class.top1",)),
    "nothing for an accuracy": (head("top1", None), ("None for heads.class.top1",)),
    "no images": (top("images", 0), ("0 for images", "above 0")),
    "a list for heads": (top("heads", []), ("[] for heads",)),
    "a number for a head": (top("heads", {"class": 96.7}), ("96.7 for heads.class",)),
    "another model's metrics": (top("model", "teacher"), ("teacher", "student")),
    "a number for a name": (top("set", 7), ("7 for set",)),
    "cut off": (lambda _: cut(STUDENT, 90), ()),
    "zero bytes": (lambda _: cut(STUDENT, 0), ()),
    "a list": (lambda _: STUDENT.write_text("[]"), ()),
    "bytes that are no text": (lambda _: STUDENT.write_bytes(b"\xff\xfe{}"), ()),
}


def page(name: str, path: Path, plant: Callable[[Any], object], *says: str) -> Fault:
    """Another input of the page."""
    return Fault(name, Page, plant, "report", (str(path), *says, "dvc checkout"))


FAULTS = [
    *(
        Fault(name, kind, plant, where, (str(STUDENT), *says, "dvc"))
        for kind, where in ((Page, "report"), (Export, "export"))
        for name, (plant, says) in SPOILT.items()
    ),
    page(
        "a history with a word in it",
        TEACHER,
        lambda _: TEACHER.write_text("epoch,loss\n0,two\n"),
        "'two' in column loss",
    ),
    page("a history cut inside a row", TEACHER, lambda _: TEACHER.write_text("epoch,loss,lr\n0,2\n"), "too few"),
    page("a history without its loss", TEACHER, lambda _: TEACHER.write_text("epoch,lr\n0,2\n"), "no column 'loss'"),
    page("a table of classes cut off", CLASSES, lambda _: cut(CLASSES, 3)),
    page(
        "a picture that is none",
        Path("data/samples/mae.png"),
        lambda _: Path("data/samples/mae.png").write_bytes(b"x"),
        "PNG",
    ),
    page("a gate's details cut off", DETAILS, lambda _: cut(DETAILS, 50)),
]
