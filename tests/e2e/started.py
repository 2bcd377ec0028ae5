"""An embedded Prefect (`make prefect`) that runs in a clone with stand-ins, for tests of it and of its pages."""

import os
import re
import sys
from pathlib import Path

from flows import service
from tests.e2e.server import Server, clean, until

OPENS_SECONDS = 180


class Started:
    """An embedded Prefect in a clone with stand-ins."""

    def __init__(self, clone: Path, *arguments: str) -> None:
        self.clone, self.home = clone, clone / "data/runs/prefect"
        self.told = clone.parent / "told"
        self.output = clone.parent / "embedded.log"
        self.output.unlink(missing_ok=True)
        environment = {**clean(), "TUTELAGE_TOLD": str(self.told)}
        command = [sys.executable, "-m", "flows.embedded", "--port", "0", *arguments]
        self.service = service.Service("embedded", command, environment, clone, self.output)
        self.service.start()
        until(lambda: "Tutelage is at" in self.said or not self.service.runs, OPENS_SECONDS)
        found = re.search(r"Tutelage is at (http://127.0.0.1:(\d+))", self.said)
        assert found, self.said
        self.url = found[1]
        self.server = Server(self.home, int(found[2]))  # only for its questions: never started

    @property
    def said(self) -> str:
        return self.output.read_text() if self.output.exists() else ""

    def processes(self) -> list[int]:
        """Whatever runs in the clone or for it."""
        mine = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if str(self.clone) in (folder / "environ").read_text(errors="replace") or os.readlink(
                    folder / "cwd"
                ) == str(self.clone):
                    mine.append(int(folder.name))
            except OSError:
                continue
        return [pid for pid in mine if pid != os.getpid()]
