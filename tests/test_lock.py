"""requirements.lock: every package at one version, each of its files by its sha256, and no word of where they come from."""

import re
from pathlib import Path

import pytest

from tests import closure

ENTRY = re.compile(r"^([a-z0-9][a-z0-9._-]*(?:\[[a-z0-9,._-]+\])?)==(\S+)( ; .+?)?( \\)?$")
HASH = re.compile(r"^    --hash=sha256:[0-9a-f]{64}( \\)?$")


def problems(text: str) -> list[str]:
    """Lines that are neither a pinned package, a hash of one, nor a comment; and packages without a hash."""
    wrong, hashes = [], {}
    name = ""
    for line in text.splitlines():
        if entry := ENTRY.match(line):
            name = entry[1]
            hashes.setdefault(name, 0)
        elif HASH.match(line) and name:
            hashes[name] += 1
        elif not re.match(r"^\s*#|^$", line) or "://" in line:
            wrong.append(line)
    return wrong + [f"{name} has no hash" for name, count in hashes.items() if not count]


def test_lock__is_pinned_by_hashes_and_names_no_host() -> None:
    text = (closure.ROOT / "requirements.lock").read_text()
    assert problems(text) == []
    assert len(re.findall(ENTRY.pattern, text, re.MULTILINE)) > 100


@pytest.mark.parametrize(
    "line",
    [
        "absl-py==2.5.1",  # no hash follows
        "absl-py>=2 \\\n    --hash=sha256:" + "0" * 64,
        "--index-url https://host/simple",
        "--extra-index-url https://host/simple",
        "--find-links folder",
        "absl-py @ https://host/absl.whl \\\n    --hash=sha256:" + "0" * 64,
        "-e .",
        "absl-py==2.5.1 \\\n    --hash=md5:" + "0" * 32,
        "absl-py==2.5.1 \\\n    --hash=sha256:" + "0" * 63,
    ],
)
def test_problems__a_planted_one_is_found(line: str) -> None:
    assert problems(f"zc-lockfile==4.0 \\\n    --hash=sha256:{'1' * 64}\n{line}\n")


def test_setup__installs_nothing_without_its_hash() -> None:
    """Each command of the Makefile that installs says --require-hashes; the installer itself is one of what is pinned."""
    lines = [
        line for line in (closure.ROOT / "Makefile").read_text().splitlines() if re.search(r"\bpip install\b", line)
    ]
    assert lines and all("--require-hashes" in line for line in lines), lines
    assert re.search(r"^uv==", (closure.ROOT / "requirements.lock").read_text(), re.MULTILINE)
    for path in (*Path(closure.ROOT / "deploy").rglob("*"), closure.ROOT / "prefect.yaml"):
        for line in path.read_text().splitlines() if path.is_file() else ():
            assert not re.search(r"\bpip3? install\b", line) or "--require-hashes" in line, f"{path}: {line}"
