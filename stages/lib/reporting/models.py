"""The models in the order they are made: what each is, how its training went, what it can do."""

from stages.lib.reporting import charts, commands, markup, pictures, probed, tables, transferred
from stages.lib.reporting.charts import Line
from stages.lib.reporting.inputs import History
from stages.lib.reporting.material import Material, Model
from stages.lib.reporting.sources import Fact

VAL_TOP1 = "Validation top-1 at the end"
LOSSES = (
    "Training loss is measured on augmented, mixed images against the recipe's own targets, validation loss on plain images "
    "against labels: compare each with itself."
)


def teacher(found: Material) -> str:
    """Who answers the student."""
    intro = "The network that learns from labels alone, or was fetched; the student will listen to it."
    return _model(found, "teacher", intro)


def mae(found: Material) -> str:
    """Masked pretraining."""
    intro = (
        "A masked autoencoder (He et al., arXiv 2111.06377) sees a fraction of an image's patches and paints the others. It is "
        "shown no label. Its encoder is what the student starts from where <code>train.init</code> says so."
    )
    caption = (
        "From top to bottom: images it was not trained on, the patches it is shown, and what it makes of the rest."
    )
    shown = pictures.picture(
        found.folder, "mae", caption, "Rows of images: originals, masked, reconstructed by the autoencoder"
    )
    left = markup.element("div", _training(found, found.models["mae"]) + probed.features(found))
    evidence = markup.grid([left, probed.painted(found) or shown], "two") + curves(found.models["mae"])
    return markup.section("mae", "MAE", markup.paragraph(intro) + evidence)


def student(found: Material) -> str:
    """Distillation."""
    intro = (
        "A vision transformer with two heads (DeiT, Touvron et al., arXiv 2012.12877): the class head learns from labels, the "
        "distillation head from the teacher. Its own answer is the mean of both heads' logits."
    )
    caption = "The first training images as the student sees them: cropped, distorted, erased, mixed in pairs."
    shown = pictures.picture(
        found.folder, "student", caption, "Grid of augmented training images, some of them mixtures of two"
    )
    return _model(found, "student", intro, shown)


def finetuned(found: Material) -> str:
    """Higher resolution."""
    intro = (
        "The student trained a little longer on larger images, its position embeddings interpolated to the finer grid."
    )
    return _model(found, "finetuned", intro)


def transfer(found: Material) -> str:
    """Other sets."""
    if not found.sets.transfer:
        none = markup.absent("No transfer set is named in <code>params.yaml: sets.transfer</code>.")
        return markup.section("transfer", "Transfer", none)
    intro = markup.paragraph("The trained model with fresh heads, fine-tuned on a set whose classes it has never met.")
    parts = [
        markup.element("h3", markup.name(name), id=f"transfer-{name}")
        + _evidence(found, found.models[f"transfer-{name}"])
        for name in found.sets.transfer
    ]
    return markup.section("transfer", "Transfer", intro + transferred.table(found) + "".join(parts))


def _model(found: Material, name: str, intro: str, shown: str = "") -> str:
    model = found.models[name]
    return markup.section(name, markup.text(model.title), markup.paragraph(intro) + _evidence(found, model) + shown)


def _evidence(found: Material, model: Model) -> str:
    """Numbers and curves of a model, or a sentence where there are none."""
    parts = [_training(found, model)]
    if model.metrics:
        parts.append(tables.agreement(model.metrics, found.ledger))
        accuracy = tables.heads(model.metrics, found.ledger)
    else:
        accuracy = ""
        parts.append(
            markup.absent(f"It has not been measured: there is no {_made(f'data/metrics/{model.name}.json')}.")
        )
    return markup.grid([part for part in parts if part], "two") + accuracy + curves(model)


def _training(found: Material, model: Model) -> str:
    """How long it trained and where it ended."""
    if model.history is None:
        return markup.absent(f"It has not been trained: there is no {_made(f'data/history/{model.name}.csv')}.")
    history, details = model.history, found.gates.get(f"model-{model.name}")
    size, key = (model.metrics, "parameters") if model.metrics else (details, "facts.parameters")
    lines: list[tuple[str, Fact | None]] = [
        ("Architecture, in timm's words", details.fact("facts.architecture") if details else None),
        ("Parameters", size.fact(key) if size else None),
        ("Multiply-accumulates of one image", model.metrics.fact("macs") if model.metrics else None),
        ("Image size, pixels", model.metrics.fact("image_size") if model.metrics else None),
        ("Epochs trained", history.epochs()),
        ("Training loss at the end", history.last("loss")),
        ("Validation loss at the end", history.last("val_loss")),
        (VAL_TOP1, history.last("val_top1")),
    ]
    table = found.ledger.facts("Size and training.", lines, [VAL_TOP1])
    return (
        table
        if history.epochs()
        else table + markup.absent("It was fetched, not trained here: its history holds no loss.")
    )


def _made(file: str) -> str:
    """A file that is not there yet, and its command."""
    return f"{markup.code(file)}, which {markup.code(commands.command(file))} makes"


def curves(model: Model) -> str:
    """Loss, accuracy and learning rate by epoch; "" for a model that was not trained here."""
    history = model.history
    if history is None or not history.epochs():
        return ""
    unit = "squared error" if model.name == "mae" else "nats"
    panels = [
        charts.curves(f"{model.title}: loss", unit, _losses(history, model.colour)),
        charts.curves(
            f"{model.title}: validation top-1", "percent", [Line("", history.column("val_top1"), model.colour)]
        ),
        charts.curves(
            f"{model.title}: top-1 by nearest neighbours",
            "percent",
            [Line("", history.column("knn_top1"), model.colour)],
        ),
        charts.curves(
            f"{model.title}: learning rate", "rate at the epoch's end", [Line("", history.column("lr"), "muted")]
        ),
    ]
    drawn = markup.grid([panel for panel in panels if panel], "panels")
    return markup.figure(drawn, LOSSES if model.name != "mae" else "Loss over hidden patches.", history.file)


def _losses(history: History, colour: str) -> list[Line]:
    """Training loss, its two parts where there are two, and validation loss."""
    return [
        Line("training", history.column("loss"), "muted"),
        Line("from labels", history.column("base"), "muted", (2, 3)),
        Line("from the teacher", history.column("distillation"), "teacher", (2, 3)),
        Line("validation", history.column("val_loss"), colour),
    ]
