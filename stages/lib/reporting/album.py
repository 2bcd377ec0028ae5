"""The images a model is surest about, rightly and wrongly, and a sample: one picture cut into tiles, to filter and sort."""

from stages.lib.reporting import markup
from stages.lib.reporting.inputs import Folder
from stages.lib.reporting.material import Material, Model

COLUMNS = 12  # tiles a row of the picture
SMALL = 64  # pixels; a smaller tile is enlarged, its pixels kept as squares
KINDS = {"best": "surest and right", "worst": "surest and wrong", "sample": "a sample"}
ORDERS = {
    "place up": "as chosen",
    "probability down": "most certain first",
    "probability up": "least certain first",
    "nll down": "worst surprise first",
}
ARROW = "\u2192"
HEAD = ["kind", "place", "key", "actual", "predicted", "probability", "nll"]


def section(found: Material) -> str:
    """An album a model."""
    parts = [_album(found, model) for model in found.trained() if model.name != "mae"]
    intro = markup.paragraph(
        "A wrong answer given with certainty says more than its accuracy: a bad label, a bad crop, or a blind spot."
    )
    return markup.section("images", "Best and worst images", intro + "".join(parts))


def _album(found: Material, model: Model) -> str:
    heading = markup.element("h3", markup.text(model.title))
    name = f"plots/{model.name}-images.csv"
    rows, picture = found.folder.table(name, HEAD), found.folder.picture(f"{model.name}-images")
    if rows is None or picture is None:
        return heading + markup.missing(found.folder.label(name))
    height = picture.height * COLUMNS // picture.width
    tiles = "".join(_tile(found.folder, name, line, row, height) for line, row in enumerate(rows, 2))
    small = " small" if picture.width // COLUMNS < SMALL else ""
    listed = markup.element("ul", tiles, class_=f"album{small}", style=f"--sprite:url({picture.address})")
    whole = markup.element("div", _controls() + listed, class_="albums")
    caption = f"What it is {ARROW} what the model says, and how sure it is."
    return heading + markup.figure(whole, caption, f"{found.folder.label(name)}, {picture.file}")


def _controls() -> str:
    kinds = markup.choice("Show", [("", "all"), *KINDS.items()], data_kind="")
    orders = markup.choice("Order", list(ORDERS.items()), data_order="")
    return markup.element(
        "div", f'{kinds}{orders}<output aria-live="polite"></output>', class_="controls", hidden="hidden"
    )


def _tile(folder: Folder, name: str, line: int, row: dict[str, str], height: int) -> str:
    """A tile of the picture, `height` tiles high, as a background that its place moves; its words say what it shows."""
    place = int(folder.number(name, line, row, "place") or 0)
    probability, nll = (folder.number(name, line, row, column) or 0.0 for column in ("probability", "nll"))
    right = 100 * (place % COLUMNS) / (COLUMNS - 1)
    down = 100 * (place // COLUMNS) / max(1, height - 1)
    words = f"{row['actual']} taken for {row['predicted']}"
    image = markup.element("i", role="img", aria_label=words, style=f"background-position:{right:.4f}% {down:.4f}%")
    said = f"{markup.name(row['actual'])} {ARROW} {markup.name(row['predicted'])}<br>{probability:.1%}"
    wrong = None if row["actual"] == row["predicted"] else "wrong"
    told = {
        "data_kind": row["kind"],
        "data_place": place,
        "data_probability": f"{probability:.6f}",
        "data_nll": f"{nll:.6f}",
    }
    return markup.element(
        "li", image + said, class_=wrong, title=f"{row['key']}, {KINDS.get(row['kind'], row['kind'])}", **told
    )
