"""The page: what happened from raw images to a distilled transformer, in the order of the pipeline."""

import base64
import hashlib

from stages.lib.params.report import Report
from stages.lib.params.sets import Sets
from stages.lib.reporting import (
    album,
    calibration,
    compared,
    diagram,
    gates,
    heads,
    how,
    library,
    markup,
    models,
    results,
    robust,
    sets,
    style,
    tables,
)
from stages.lib.reporting.inputs import Folder
from stages.lib.reporting.material import Material, gather

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{hash}'"
"""The browser, too, may fetch nothing and run nothing but the one script whose hash stands here; no eval."""


def page(report: Report, roles: Sets, folder: Folder) -> str:
    """The whole HTML document, a pure function of the arguments and the folder's files. Raises Refusal at a damaged file."""
    found = gather(report, roles, folder)
    body = "".join(
        [
            '<a class="skip" href="#data">Skip to the content</a>',
            markup.element("header", header(found)),
            markup.element("main", "".join(part(found) for part in PARTS)),
            markup.element("footer", FOOTER),
        ]
    )
    script = library.bundle()
    policy = POLICY.format(hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode())
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"><link rel="icon" href="data:,">'
        f"<title>{markup.text(report.title)}</title><style>{style.sheet()}</style>"
    )
    body += f'<script type="module">{script}</script>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def header(found: Material) -> str:
    """Title, the result in a sentence, a tile a model, and the pipeline."""
    title = markup.element("h1", markup.text(found.report.title))
    return title + results.lead(found) + results.tiles(found) + diagram.picture(found)


def sources(found: Material) -> str:
    """Where every number came from; it comes last, when everything has been cited."""
    intro = "A number underlined with dots leads to its line here. Values stand as the file gives them; the page above rounds them."
    return markup.section(
        "sources",
        "Where every number came from",
        markup.paragraph(intro)
        + _folded("Every number, its file and its place in it", found.ledger.listing())
        + _folded("Files read, with their hashes", tables.files(found.folder.read)),
    )


def _folded(title: str, content: str) -> str:
    return markup.element("details", markup.element("summary", title) + content)


PARTS = (
    sets.section,
    gates.section,
    models.teacher,
    models.mae,
    models.student,
    models.finetuned,
    heads.section,
    models.transfer,
    results.results,
    robust.section,
    compared.section,
    calibration.section,
    results.mistaken,
    album.section,
    how.load,
    how.reproduce,
    sources,
)
FOOTER = markup.paragraph(
    "Made by <code>python -m stages.report</code> from the files listed above and nothing else: no clock, no host, no network. "
    "The same files give the same page, byte for byte. Rates, times and costs are not results; they lie in the run folders."
)
