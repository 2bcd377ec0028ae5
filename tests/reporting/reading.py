"""Reads a page as a person would: which numbers are shown, where each is said to come from."""

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br", "wbr", "path", "use", "input"}
NO_MEASUREMENT = {"code", "pre", "title", "style", "h1", "option"}  # text in which a digit is a name or a command


@dataclass
class Read(HTMLParser):
    """What a page holds, filled by feed()."""

    cited: list[tuple[str, str, str]] = field(default_factory=list)  # (shown, title, href) of each cited number
    unsourced: list[str] = field(default_factory=list)  # text with a digit under no source
    ids: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)  # whatever a browser would fetch
    tags: set[str] = field(default_factory=set)
    scripts: list[tuple[str, str]] = field(default_factory=list)  # (type, content): data of charts, and what runs
    labels: list[tuple[str, str]] = field(default_factory=list)  # (tag, what names it) of charts and pictures
    text: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self.open: list[tuple[str, dict[str, str]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attrs}
        self.tags.add(tag)
        if "id" in given:
            self.ids.append(given["id"])
        if "href" in given:
            (self.loaded if tag == "link" else self.links).append(given["href"])
        if "src" in given:
            self.loaded.append(given["src"])
        if given.get("class") == "n":
            self.cited.append(("", given["title"], given["href"]))
        if tag == "script":
            self.scripts.append((given.get("type", ""), ""))
        if tag == "img" or given.get("role") == "img":
            self.labels.append((tag, given.get("alt") or given.get("aria-label") or ""))
        if tag not in VOID:
            self.open.append((tag, given))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        opened = self.open.pop()[0]
        assert opened == tag, f"<{opened}> is closed by </{tag}>"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1][0] == "script":
            kind, before = self.scripts[-1]
            self.scripts[-1] = kind, before + data
            if kind == "module":  # what runs; the data of a chart stand under a source like any other number
                return
        else:
            self.text += data
        if any(given.get("class") == "n" for _, given in self.open):
            shown, title, href = self.cited[-1]
            self.cited[-1] = shown + data, title, href
        elif re.search(r"\d", data) and not self.is_sourced():
            self.unsourced.append(data)

    def is_sourced(self) -> bool:
        """Whether the text stands under a file, is a name, or is a place in a file."""
        return any(
            tag in NO_MEASUREMENT or "data-source" in given or given.get("class") in ("name", "place") or "id" in given
            for tag, given in self.open
        )


def read(page: str) -> Read:
    """The page, which must be balanced: every tag is closed by its own."""
    found = Read()
    found.feed(page)
    found.close()
    assert not found.open, found.open
    return found
