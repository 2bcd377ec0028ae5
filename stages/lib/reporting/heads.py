"""The two tokens of a distilled transformer: how often their heads disagree, how alike they are, where they look."""

from typing import Any

from stages.lib.reporting import charts, markup, papers, pictures
from stages.lib.reporting.inputs import Record
from stages.lib.reporting.material import Material, Model

WHO = {
    "teacher": "teacher",
    "class": "class head",
    "dist": "distillation head",
    "fused_logits": "both heads",
    "label": "label",
}
AGREEMENT = "metrics/agreement.json"
PUBLISHED = "DeiT-B, published"
LISTENERS = ("student", "finetuned")
ATTENTION = 300  # pixels; a dozen rows of three


def section(found: Material) -> str:
    """Disagreement, cosines and attention of student and fine-tuned model."""
    intro = markup.paragraph(
        "DeiT found that the head that learnt from the teacher is the nearer one to it, and that the two tokens start apart and "
        "end alike without becoming the same. What this run finds stands beside the paper's figures."
    )
    parts = [disagreement(found), markup.grid([tokens(found, found.models[name]) for name in LISTENERS], "two")]
    parts.append(markup.grid([attention(found, found.models[name]) for name in LISTENERS], "two"))
    return markup.section("heads", "Heads and tokens", intro + "".join(parts))


def disagreement(found: Material) -> str:
    """On how many images two disagree, beside DeiT's Table 4."""
    record = found.folder.record(AGREEMENT)
    if record is None:
        return markup.missing(found.folder.label(AGREEMENT))
    pairs = [pair for pair in papers.DISAGREEMENT if any(record.fact(f"{name}.{pair}") for name in LISTENERS)]
    rows = [
        [
            words(pair),
            *(found.ledger.percent(record.fact(f"{name}.{pair}")) for name in LISTENERS),
            markup.name(f"{papers.DISAGREEMENT[pair]} %"),
        ]
        for pair in pairs
    ]
    head = ["Who disagrees", *(found.models[name].title for name in LISTENERS), PUBLISHED]
    caption = (
        f"Share of the {found.ledger.number(record.fact('images'))} images on which two disagree; the last column is the "
        f"paper's, on ImageNet. {markup.origin(record.file)}"
    )
    return markup.table(caption, head, rows) + _heat(record, pairs)


def words(pair: str) -> str:
    """`class_fused_logits` -> class head and both heads."""
    one = next(name for name in WHO if pair.startswith(f"{name}_"))
    return f"{WHO[one]} and {WHO[pair.removeprefix(f'{one}_')]}"


def _heat(record: Record, pairs: list[str]) -> str:
    """The student's pairs as bars, the published ones beside them."""
    rows: list[dict[str, Any]] = [
        {"pair": words(pair), "who": who, "percent": charts.rounded(value)}
        for pair in pairs
        for who, value in (
            ("student", record.number(f"student.{pair}")),
            (PUBLISHED, papers.DISAGREEMENT[pair]),
        )
        if value is not None
    ]
    if not rows:
        return ""
    table = markup.table(
        "Percent of images.",
        ["Pair", "Of", "Percent"],
        [[row["pair"], row["who"], f"{row['percent']:g} %"] for row in rows],
    )
    caption = (
        "Shorter is nearer. ImageNet has more classes, so its heads disagree more often than those of a small set."
    )
    chart = charts.bars(
        rows, "pair", "who", "percent", {"student": "student", PUBLISHED: "published"}, "Disagreement", table
    )
    return markup.figure(chart, caption, record.file, "plot")


def tokens(found: Material, model: Model) -> str:
    """Cosine of class and distillation token layer by layer; "" for a model of one token."""
    name = f"plots/{model.name}-tokens.csv"
    table = found.folder.table(name, ["layer", "cosine", "low", "high"])
    if table is None:
        return markup.missing(found.folder.label(name))
    if not table:
        return markup.absent(f"{model.title} has one token, so there is nothing to compare.")
    rows = [
        {column: found.folder.number(name, line, row, column) for column in ("layer", "cosine", "low", "high")}
        for line, row in enumerate(table, 2)
    ]
    lines = [[f"{row['layer']:.0f}", *(f"{row[one]:.4f}" for one in ("cosine", "low", "high"))] for row in rows]
    caption = (
        f"{markup.text(model.title)}: cosine between the two tokens, at the input and after every block; the band holds 95 % of "
        f"the images. {markup.name('DeiT-B, published: {} at the input, {} after the last.'.format(*papers.COSINES))}"
    )
    whole = markup.table("Cosine of class and distillation token.", ["After block", "Mean", "From", "To"], lines)
    chart = charts.band(
        rows,
        "layer",
        "cosine",
        ("after block (0: the input)", "cosine"),
        model.colour,
        f"{model.title}: cosine of the two tokens",
        whole,
    )
    return markup.figure(chart, caption, found.folder.label(name))


def attention(found: Material, model: Model) -> str:
    """Where the tokens look, in the sample's images."""
    caption = (
        f"{markup.text(model.title)}, a row an image: the image, what the class token attends to in the last block, and what the "
        "distillation token does, mean over the block's attention heads."
    )
    return pictures.picture(
        found.folder,
        f"{model.name}-attention",
        caption,
        f"{model.title}: images beside the attention of their tokens",
        wide=ATTENTION,
    )
