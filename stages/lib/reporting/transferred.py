"""The transfer table: every set the student was fine-tuned on, beside what DeiT-B reached on the same set (Table 7)."""

from stages.lib.reporting import compared, markup, papers, tables
from stages.lib.reporting.inputs import Record
from stages.lib.reporting.material import Material
from stages.lib.reporting.sources import Ledger

HEAD = ["Set", "Top-1", "95 % interval", "Class mean", "Images", "Classes", "DeiT-B distilled", "at 384 px", "File"]
CAPTION = (
    "The student on other sets. The published models were trained on ImageNet and have 86 million parameters "
    "(Touvron et al. 2021, Table 7); they stand beside sets of the same name."
)


def table(found: Material) -> str:
    """A row a set that has been measured; "" where none has."""
    pairs = [(name, found.models[f"transfer-{name}"].metrics) for name in found.sets.transfer]
    rows = [_row(name, metrics, found.ledger) for name, metrics in pairs if metrics]
    return markup.table(CAPTION, HEAD, rows, compared.SOURCE, class_="placed") if rows else ""


def _row(name: str, metrics: Record, ledger: Ledger) -> list[str]:
    head = f"heads.{tables.answer(metrics)}"
    own = [ledger.percent(metrics.fact(f"{head}.top1")), tables.spread(metrics, ledger)]
    mean = ledger.percent(metrics.fact(f"{head}.mean_per_class"))
    sizes = [ledger.number(metrics.fact(key)) for key in ("images", "classes")]
    published = [markup.name(f"{value} %") for value in papers.TRANSFERRED.get(name, ())] or [markup.DASH, markup.DASH]
    return [markup.name(name), *own, mean, *sizes, *published, markup.code(metrics.file)]
