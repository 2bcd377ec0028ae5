"""File names that a data file claims for its images, made fit to be the last part of a path."""

import re


def plain(name: str) -> str:
    """The last part of `name`, at most 100 of the letters, digits, `.`, `_` and `-`; anything else becomes `_`."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name.replace("\\", "/").rpartition("/")[2][-100:])
