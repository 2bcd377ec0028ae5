"""What came of it: the result in a sentence, a tile a model, all models side by side, and where each errs."""

from stages.lib.reporting import charts, markup, mistakes, tables
from stages.lib.reporting.charts import Mark
from stages.lib.reporting.inputs import Record
from stages.lib.reporting.material import Material, Model
from stages.lib.reporting.sources import Fact


def lead(found: Material) -> str:
    """The result in one sentence."""
    student, teacher = found.models["student"].metrics, found.models["teacher"].metrics
    if student is None:
        return markup.absent("The student has not been measured yet: this page shows how far the pipeline got.")
    show = found.ledger
    sentence = (
        f"A student of {show.number(student.fact('parameters'))} parameters puts {show.percent(top1(student))} of "
        f"{show.number(student.fact('images'))} images of {markup.name(student.values.get('set', found.sets.main))} "
        f"into the right one of {show.number(student.fact('classes'))} classes"
    )
    rest = f"; its teacher {show.percent(top1(teacher))}" if teacher else "; its teacher has not been measured"
    return markup.element("p", f"{sentence}{rest}; guessing, {chance(found, student)}.", class_="lead")


def top1(metrics: Record) -> Fact | None:
    """The accuracy of the model's own answer."""
    return metrics.fact(f"heads.{tables.answer(metrics)}.top1")


def chance(found: Material, metrics: Record) -> str:
    """What guessing one of the classes gives."""
    classes = metrics.number("classes")
    if not classes:
        return found.ledger.percent(None)
    return found.ledger.worked_out(f"{100 / classes:.2f} %", metrics.file, "100 / classes")


def tiles(found: Material) -> str:
    """A tile a measured model: its top-1, a meter of it, and what guessing would give."""
    return markup.grid([_tile(found, model, metrics) for model, metrics in found.measured()], "tiles")


def _tile(found: Material, model: Model, metrics: Record) -> str:
    share, classes = metrics.number(f"heads.{tables.answer(metrics)}.top1"), metrics.number("classes")
    length = f'<i style="width:{share:.2f}%"></i>' if share is not None else ""
    guess = f'<u style="left:{100 / classes:.2f}%"></u>' if classes else ""
    head = "both heads" if tables.answer(metrics) != "class" else "one head"
    small = f"top-1, {head}<br>mark: guessing, {chance(found, metrics)}"
    content = (
        markup.element("b", markup.name(model.title))
        + markup.element("strong", found.ledger.percent(top1(metrics)))
        + markup.element("div", length + guess, class_="meter", aria_hidden="true")
        + markup.element("small", small)
    )
    return markup.element("div", content, class_="tile", style=f"--hue:var(--{model.colour})")


def results(found: Material) -> str:
    """All models side by side."""
    measured = found.measured()
    if not measured:
        return markup.section("results", "Every model side by side", markup.absent("No model has been measured yet."))
    intro = markup.paragraph(
        "The interval says how far chance alone could carry a top-1 measured on so many images: models whose intervals "
        "overlap widely may well be equally good."
    )
    table = tables.side_by_side([(model.title, metrics) for model, metrics in measured], found.ledger)
    marks = [mark for model, metrics in measured for mark in _marks(model, metrics)]
    files = ", ".join(metrics.file for _, metrics in measured)
    caption = "Filled: the model's own answer. Hollow: one of its heads. Lines: 95 % intervals."
    plot = markup.figure(charts.accuracies(marks), caption, files, "plot")
    return markup.section("results", "Every model side by side", intro + table + plot)


def _marks(model: Model, metrics: Record) -> list[Mark]:
    """A dot a head, the model's own answer first."""
    images, own = metrics.number("images"), tables.answer(metrics)
    marks = []
    for head in dict.fromkeys([own, *tables.TOPS]):
        value = metrics.number(f"heads.{head}.top1")
        if value is not None and 0 <= value <= 100 and images:
            label = model.title if head == own else f"{model.title}, {tables.TOPS[head].lower()}"
            marks.append(Mark(label, value, tables.measured(metrics, head, images), model.colour, head == own))
    return marks


def mistaken(found: Material) -> str:
    """Confusion and worst classes of each model that has them."""
    parts = [part for model in found.trained() if (part := _mistakes(found, model))]
    content = markup.grid(parts, "panels") if parts else markup.absent("No model's predictions have been written yet.")
    return markup.section("mistakes", "Where they err", content)


def _mistakes(found: Material, model: Model) -> str:
    classes = mistakes.read_classes(found.folder, model.name)
    confusion = mistakes.read_confusion(found.folder, model.name, classes)
    parts = [mistakes.confusion(confusion)] if confusion else []
    if classes and found.report.worst_classes:
        file = found.folder.label(f"plots/{model.name}-classes.csv")
        parts.append(mistakes.worst(classes, file, confusion, found.report.worst_classes))
    return markup.element("div", markup.element("h3", markup.text(model.title)) + "".join(parts)) if parts else ""
