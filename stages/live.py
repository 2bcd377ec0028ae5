"""The live page: what runs, how far it is, what it took and was predicted to take, what is stale. No DVC stage: it holds a clock.

in    <run root>, dvc.yaml, dvc.lock, params.yaml, .dvc/tmp/rwlock, data/metrics
run   python -m stages.report --live [--port P]         served on 127.0.0.1, refreshing itself; Ctrl-C ends it
      python -m stages.report --live --once FILE        one file as of now, which opens without a network

It looks and touches nothing: no lock of DVC's is taken, so it may be open while `dvc repro` runs, before anything was trained, and
with damaged files about.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from stages.lib.core import files, load, loopback, outcome
from stages.lib.core.loopback import Answer, Request, said
from stages.lib.core.outcome import Refusal
from stages.lib.params.credentials import masked
from stages.lib.params.system import System
from stages.lib.reporting import live_page, live_runs
from stages.lib.reporting.live_page import Now
from stages.lib.reporting.live_runs import Trouble

PORT = 8151
REPORT = Path("data/reports/index.html")
HTML = "text/html; charset=utf-8"
REPORT_POLICY = "connect-src 'none'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
"""Beside the one that stands in the report."""
LEAST_SECONDS, MOST_SECONDS, PATIENCE_SECONDS = 10.0, 300.0, 120.0
"""DVC is asked when one of its files or a file of code has changed, but not more often than this; in any case that often; and for
so long."""


def main() -> None:
    """Serve, or write one file. Raises Refusal for a word that is none, or outside a repository."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.report --live", description="What runs, what is stale, what it took."
    )
    parser.add_argument("--port", type=int, default=PORT, help=f"default {PORT}; 0: any that is free")
    parser.add_argument("--once", type=Path, metavar="FILE", help="write one file instead")
    arguments = parser.parse_args()
    if not Path("dvc.yaml").is_file():
        raise Refusal(f"There is no dvc.yaml in {Path.cwd()}. Run from the root of the repository.")
    if arguments.once:
        place: Path = arguments.once
        report = os.path.relpath(REPORT, place.parent) if REPORT.is_file() else None
        with files.replace(place) as temporary:
            temporary.write_text(live_page.document(now(ask(), time.time(), report), live=False), encoding="utf-8")
        sys.stdout.write(f"{place}\n")
        return
    loopback.serve(loopback.Server(Page().respond, arguments.port), "What runs:")


class Page:
    """Answers, and asks DVC behind a person's back: the page comes at once, with what DVC said last."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.cache: dict[str, Any] = {}
        self.cache_at, self.asked_at, self.asking, self.key = 0.0, -MOST_SECONDS, False, ""

    def respond(self, request: Request) -> Answer:
        """The page, what of it changes, or the report."""
        if request.method != "GET" or request.path not in ("/", "/now", "/report"):
            return said(404, "There is nothing here; the page is /.")
        if request.path == "/report":
            if not REPORT.is_file():
                return said(404, "There is no report yet: `dvc repro report` makes it.")
            return Answer(REPORT.read_bytes(), HTML, policy=REPORT_POLICY)
        self._ask()
        seen = now(self.cache, self.cache_at, "/report" if REPORT.is_file() else None)
        text = live_page.document(seen, live=True) if request.path == "/" else live_page.body(seen)
        return Answer(text.encode(), HTML, policy=f"{live_page.POLICY}; frame-ancestors 'none'")

    def _ask(self) -> None:
        """Start asking, where what is known may be old; one at a time."""
        key, at = key_of_files(), time.monotonic()
        with self.lock:
            due = key != self.key and at - self.asked_at >= LEAST_SECONDS
            if self.asking or not (due or at - self.asked_at >= MOST_SECONDS):
                return
            self.asking, self.asked_at, self.key = True, at, key
        threading.Thread(target=self._answered, daemon=True).start()

    def _answered(self) -> None:
        began = time.time()
        found = ask()
        with self.lock:
            self.cache, self.cache_at, self.asking = found, began, False


def key_of_files() -> str:
    """Another one when something that makes a stage stale may have changed."""
    names = ["dvc.yaml", "dvc.lock", "params.yaml", *map(str, Path("stages").rglob("*.[pc]*"))]
    stats = []
    for name in sorted(names):
        try:
            stat = os.stat(name)
        except OSError:
            continue
        if not name.endswith(".pyc"):
            stats.append((name, stat.st_mtime_ns, stat.st_size))
    return str(hash(tuple(stats)))


def ask() -> dict[str, Any]:
    """What stages/lib/reporting/live_cache.py prints: a program of its own, as DVC takes seconds and memory."""
    command = [sys.executable, "-m", "stages.lib.reporting.live_cache"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
        found = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {"error": f"it said nothing for {PATIENCE_SECONDS:.0f} s"}
    except (IndexError, ValueError):
        last = [line for line in done.stderr.splitlines() if line.strip()]
        return {"error": masked(last[-1][:500]) if last else "it ended without a word"}
    if isinstance(found.get("error"), str):
        found["error"] = masked(found["error"])
    assert isinstance(found, dict)
    return found


def now(cache: dict[str, Any], cache_at: float, report: str | None) -> Now:
    """Everything as it is."""
    found, trouble = live_runs.read(files.root()), Trouble()
    metrics = {
        path.stem: content
        for path in sorted(Path("data/metrics").glob("*.json"))
        if (content := live_runs.record(path, trouble)) is not None
    }
    try:
        price = load.load("system", System).price_per_gpu_hour
    except Refusal as refusal:
        price = 0.0
        trouble.say(load.PARAMS, f"is not right: {refusal}")
    working = at_work(cache, trouble)
    found.trouble.extend(trouble.sentences)
    return Now(time.time(), os.uname().nodename, found, cache, cache_at, working, metrics, price, report)


def at_work(cache: dict[str, Any], trouble: Trouble) -> frozenset[str]:
    """Stages for whose outs a process that lives holds DVC's own note."""
    written = (live_runs.record(Path(".dvc/tmp/rwlock"), trouble) or {}).get("write")
    if not isinstance(written, dict):
        return frozenset()
    by_out = {os.path.abspath(out): str(one["name"]) for one in cache.get("stages", []) for out in one["outs"]}
    held = [
        path
        for path, info in written.items()
        if isinstance(info, dict) and isinstance(info.get("pid"), int) and Path(f"/proc/{info['pid']}").exists()
    ]
    return frozenset(by_out[path] for path in held if path in by_out)


if __name__ == "__main__":
    outcome.run("live", main)
