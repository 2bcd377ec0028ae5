"""HTML by functions: whatever comes from a file is escaped here, and tables all look alike."""

import html
import re
from collections.abc import Iterable, Sequence

from stages.lib.reporting import commands

DASH = "\u2013"  # stands where there is nothing
NUMBER = '<a class="n"'  # how a cited number begins (sources.py); such cells are set flush right


def text(value: object) -> str:
    """Any value as text that cannot become markup."""
    return html.escape(str(value), quote=True)


def element(name: str, content: str = "", **attributes: object) -> str:
    """<name key="value">content</name>; `class_` and `data_source` stand for class and data-source, None leaves one out."""
    given = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    opening = " ".join([name, *(f'{key}="{text(value)}"' for key, value in given.items())])
    return f"<{opening}>{content}</{name}>"


def name(value: object) -> str:
    """The name of a set, class or model: set apart, for a name may hold digits and is no measurement."""
    return element("span", text(value), class_="name")


def block(value: str) -> str:
    """Lines to copy."""
    return element("pre", element("code", text(value)))


def code(value: object) -> str:
    """A path, key or command, which may wrap after a slash."""
    return element("code", text(value).replace("/", "/<wbr>"))


def place(value: object) -> str:
    """A place in a file, which may wrap after a dot."""
    return element("span", text(value).replace(".", ".<wbr>").replace("_", "_<wbr>"), class_="place")


def paragraph(content: str) -> str:
    """One paragraph of markup."""
    return element("p", content)


def section(anchor: str, title: str, content: str) -> str:
    """A part of the page with a heading that links can lead to."""
    return element("section", element("h2", title, id=anchor) + content, aria_labelledby=anchor)


def absent(sentence: str) -> str:
    """What is not there is said, not left out."""
    return element("p", sentence, class_="absent")


def table(
    caption: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    source: str | None = None,
    class_: str | None = None,
) -> str:
    """A table of markup cells; a row's first cell is its header. source: the file of every number that is not cited."""
    flush = [None, *("num" if _is_number(row[at] for row in rows) else None for at in range(1, len(head)))]
    titles = "".join(element("th", cell, scope="col", class_=kind) for cell, kind in zip(head, flush, strict=True))
    body = "".join(element("tr", _row(row, flush)) for row in rows)
    caption = f"{caption} {origin(source)}" if source else caption
    whole = f"{element('caption', caption)}<thead><tr>{titles}</tr></thead><tbody>{body}</tbody>"
    return scroll(element("table", whole, data_source=source, class_=class_))


def scroll(content: str) -> str:
    """A region that scrolls by itself, so that a wide table never widens a narrow page."""
    return element("div", content, class_="wide", tabindex="0", role="group")


def _row(cells: Sequence[str], flush: Sequence[str | None]) -> str:
    first = element("th", cells[0], scope="row", class_=flush[0])
    return first + "".join(element("td", cell, class_=kind) for cell, kind in zip(cells[1:], flush[1:], strict=True))


def _is_number(cells: Iterable[str]) -> bool:
    """Whether a column holds numbers, with nothing but a dash or a word of absence beside them."""
    words = [re.sub("<[^>]*>", "", cell) for cell in cells]
    numbers = [word for word in words if re.fullmatch(r"-?[\d.,]+(e-?\d+)?( %)?", word)]
    return bool(numbers) and all(word in numbers or word in ("", DASH, "not measured") for word in words)


def origin(source: str) -> str:
    """The line that names the files (one, or several with commas between) behind a table or figure, and what makes them."""
    makers = dict.fromkeys(filter(None, map(commands.command, source.split(", "))))
    made = f", by {', '.join(map(code, makers))}" if makers else ""
    return element("span", f"Source: {code(source)}{made}", class_="source")


def missing(file: str) -> str:
    """A file that is not there, and what makes it."""
    return absent(f"There is no {code(file)}; {code(commands.command(file))} makes it.")


def figure(picture: str, caption: str, source: str, class_: str | None = None) -> str:
    """A picture with its caption and the file it shows."""
    return element(
        "figure", f"{picture}<figcaption>{caption} {origin(source)}</figcaption>", data_source=source, class_=class_
    )


def grid(parts: Sequence[str], class_: str = "grid") -> str:
    """Parts side by side where there is room, below each other where not."""
    return element("div", "".join(parts), class_=class_)


def findable(label: str, table: str) -> str:
    """A table with a field above it that leaves the rows holding every word written there; hidden without JavaScript."""
    field = f'<label>{label} <input type="search"></label> <output aria-live="polite"></output>'
    return element("div", element("div", field, class_="find controls", hidden="hidden") + table)


def choice(label: str, options: Sequence[tuple[str, str]], **attributes: object) -> str:
    """A drop-down of (value, words) with its label."""
    listed = "".join(element("option", text(words), value=value) for value, words in options)
    return element("label", f"{label} {element('select', listed, **attributes)}")
