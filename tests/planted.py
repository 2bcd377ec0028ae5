"""Runs stages one after the other in one process, each to its own end: `python -m tests.planted '[["scan", "x"]]' [bare]`.

Each ends as it does under DVC, with its last words, its exit code and its last_exit.json. `bare`: nothing is masked, which is the
control of a test that looks for passwords.
"""

import importlib
import json
import runpy
import sys

from stages.lib.core import s3
from stages.lib.params import credentials

QUICK = s3.Patience(connect_seconds=5.0, read_seconds=5.0, attempts=3, pause_seconds=0.002, longest_pause_seconds=0.01)


def main() -> None:
    """The codes of all, as JSON, on stdout."""
    s3.PATIENCE = QUICK
    if "bare" in sys.argv:
        for module in (
            "stages.lib.core.outcome",
            "stages.lib.core.fetch",
            "stages.lib.core.https",
            "stages.lib.core.content",
        ):
            importlib.import_module(module).masked = lambda text, *_: text  # type: ignore[attr-defined]
        credentials.Masked.format = lambda self, record: super(credentials.Masked, self).format(record)  # type: ignore[method-assign]
    codes = []
    for stage, *arguments in json.loads(sys.argv[1]):
        sys.argv[1:] = arguments
        try:
            runpy.run_module(f"stages.{stage}", run_name="__main__", alter_sys=True)
        except SystemExit as left:
            codes.append(left.code)
    sys.stdout.write(json.dumps(codes) + "\n")


if __name__ == "__main__":
    main()
