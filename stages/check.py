"""Check before anything is spent: every block of params.yaml, block against block, packages, and that raw images are there.

in    params.yaml; whether the files of `sources` exist (on S3 it is `scan` that looks)
out   data/checked   constant, so that a change of a parameter invalidates nothing through this stage
run   dvc repro -s check; `python -m stages.check --dry` (`make check`) writes nothing and needs no DVC, whose own
      templating would stumble first over a typo in what dvc.yaml interpolates
"""

import logging
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from stages.lib.core import load, outcome
from stages.lib.core.outcome import Refusal
from stages.lib.params.everything import Everything
from stages.lib.params.sources import Sources
from stages.lib.params.versions import Versions

log = logging.getLogger(__name__)
CHECKED = Path("data/checked")
VALID = "params.yaml is valid"
REMEDY = (
    "`make setup` installs what requirements.lock pins. If you changed a package on purpose, write its new version "
    "under `versions:`; the stages that use it then run again."
)


def main() -> None:
    """Raises Refusal naming everything that is wrong; otherwise writes the constant."""
    unknown = [argument for argument in sys.argv[1:] if argument != "--dry"]
    if unknown:
        raise Refusal(f"python -m stages.check knows --dry only, not {' '.join(unknown)}.")
    params = load.whole(Everything)
    compare_versions(params.versions)
    sources_are_there(params.sources)
    log.info(VALID)
    if "--dry" not in sys.argv:
        CHECKED.parent.mkdir(parents=True, exist_ok=True)
        CHECKED.write_text(VALID + "\n")


def compare_versions(versions: Versions) -> None:
    """Raises Refusal where an installed package is not the one results are attributed to.

    A local label (+cpu) says how a release was built, not which: it is compared only where `versions` gives one.
    """
    wrong = []
    for package, expected in versions.root.items():
        found = installed(package)
        if expected not in (found, found.split("+")[0]):
            wrong.append(f"  versions.{package} is {expected!r}, installed is {found}")
    if wrong:
        raise Refusal("\n".join(["The installed packages are not those of params.yaml:", *wrong, REMEDY]))


def sources_are_there(sources: Sources) -> None:
    """Raises Refusal naming every source whose files are neither here nor remembered from a scan."""
    from stages.lib.ingestion import presence  # what it needs takes longer to import than a typo takes to find

    if absent := presence.absent(sources.root):
        raise Refusal("\n".join(["Raw images are missing:", *absent]))


def installed(package: str) -> str:
    """The version of an installed distribution, or `not there at all`."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not there at all"


if __name__ == "__main__":
    outcome.run("check", main)
