"""The check stage on the default params.yaml and on everything a newcomer may do to it."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stages import check
from stages.lib.core.outcome import Refusal
from stages.lib.params.versions import Versions
from tests.conftest import ROOT

DEFAULT = (ROOT / "params.yaml").read_text()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the default params.yaml, and a command line without arguments."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["check"])
    (tmp_path / "params.yaml").write_text(DEFAULT)
    return tmp_path


def block(name: str) -> str:
    """The text of one block of the default file."""
    found = re.search(rf"^{name}:.*?(?=^\w|\Z)", DEFAULT, re.MULTILINE | re.DOTALL)
    assert found
    return found[0]


def refusal(folder: Path, name: str, pattern: str, replacement: str) -> str:
    """What check says after a substitution inside one block of the default file."""
    changed, count = re.subn(pattern, replacement, block(name), count=1, flags=re.MULTILINE)
    assert count, f"{pattern} is not in {name}"
    (folder / "params.yaml").write_text(DEFAULT.replace(block(name), changed))
    with pytest.raises(Refusal) as caught:
        check.main()
    assert not (folder / "data").exists()
    assert "git checkout params.yaml" in str(caught.value)
    return str(caught.value)


def test_main__writes_a_constant(folder: Path) -> None:
    check.main()
    first = (folder / "data/checked").read_bytes()
    (folder / "params.yaml").write_text(DEFAULT.replace("title: ", "title: Another, "))
    check.main()
    assert (folder / "data/checked").read_bytes() == first == b"params.yaml is valid\n"


def test_main__dry_writes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["check", "--dry"])
    check.main()
    assert not (folder / "data").exists()
    monkeypatch.setattr(sys, "argv", ["check", "--dri"])
    with pytest.raises(Refusal, match="knows --dry only, not --dri"):
        check.main()


@pytest.mark.parametrize(
    ("name", "pattern", "replacement", "said"),
    [
        ("train", r"^  distill: \w+", "  distill: banana", "train.distill is 'banana'; allowed: none, soft or hard."),
        ("train", r"^  distill: \w+", "  distill: false", "train.distill is false; allowed: none, soft or hard."),
        ("train", r"^  distill:", "  distil:", "train.distil is an unknown key. Did you mean 'distill'? Known here: "),
        (
            "pretrain",
            r"^  mask_ratio: [\d.]+",
            "  mask_ratio: 1.5",
            "pretrain.mask_ratio is 1.5; allowed: a number above 0 and below 1.",
        ),
        ("train", r"^  alpha: ([\d.]+)", r"  alpha: '\1'", "is text; write 0.5 without quotes."),
        ("shard", r"^  seed: 0", "  seed: 0\n  seed: 1", "the key 'seed' stands twice in one block"),
        ("shard", r"^  seed: 0", "\tseed: 0", "there is a tab"),
        ("finetune", r"^finetune:", "fine_tune:", "fine_tune is an unknown block. Did you mean 'finetune'?"),
        ("finetune", r"^finetune:", "fine_tune:", "finetune is missing; it must be a block with the keys "),
        ("versions", r"^  timm: .*", "  timm: 1.0", "versions.timm is 1.0; allowed: text. Write it in quotes."),
        ("train", r"^    mix_group: \d+", "    mix_group: 33", "train.views: mix_group 33 must be even and divide"),
        ("sets", r"^  main: .*", "  main: imagenet", "sets names 'imagenet', which is not in sources: "),
        ("sets", r"^  transfer: .*", "  transfer: []", "which no set uses"),
        (
            "pretrain",
            r"width: 96",
            "width: 48",
            "train.init: mae needs train.model equal to pretrain.model, but width is 96",
        ),
    ],
)
def test_main__refuses(folder: Path, name: str, pattern: str, replacement: str, said: str) -> None:
    assert said in refusal(folder, name, pattern, replacement)


@pytest.mark.parametrize("name", re.findall(r"^(\w+):", DEFAULT, re.MULTILINE))
def test_main__refuses_a_missing_block(folder: Path, name: str) -> None:
    (folder / "params.yaml").write_text(DEFAULT.replace(block(name), ""))
    with pytest.raises(Refusal, match=f"{name} is missing"):
        check.main()


def test_versions__another_version_is_refused_and_named(folder: Path) -> None:
    text, count = re.subn(r"^  (timm): .*", r"  \1: 0.3.2", DEFAULT, flags=re.MULTILINE)
    assert count == 1
    (folder / "params.yaml").write_text(text)
    with pytest.raises(Refusal) as caught:
        check.main()
    assert re.search(r"versions\.timm is '0\.3\.2', installed is \d", str(caught.value))
    assert "make setup" in str(caught.value)


def test_versions__local_labels_and_absent_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "version", lambda _: "2.15.0+cpu")
    check.compare_versions(Versions({"torch": "2.15.0"}))
    check.compare_versions(Versions({"torch": "2.15.0+cpu"}))
    with pytest.raises(Refusal, match=r"installed is 2\.15\.0"):
        check.compare_versions(Versions({"torch": "2.15.0+cu130"}))
    monkeypatch.undo()
    with pytest.raises(Refusal, match="no-such-package-at-all is '1', installed is not there at all"):
        check.compare_versions(Versions({"no-such-package-at-all": "1"}))


def test_command__ends_in_a_second_with_a_sentence_and_the_file_untouched(folder: Path) -> None:
    bad = DEFAULT.replace("distill: hard", "distill: banana")
    (folder / "params.yaml").write_text(bad)
    environment = {"PYTHONPATH": str(ROOT), "TUTELAGE_RUNS": str(folder / "runs")}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "stages.check"], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )
    assert time.perf_counter() - start < 5  # 0.4 s on a quiet machine
    assert done.returncode == 2
    assert done.stderr.startswith(
        "params.yaml has 1 problem:\n  train.distill is 'banana'; allowed: none, soft or hard.\n"
    )
    assert (folder / "params.yaml").read_text() == bad
    record = json.loads((folder / "runs/check/last_exit.json").read_text())
    assert (record["code"], record["retryable"]) == (2, False)


def test_command__imports_nothing_heavy() -> None:
    code = (
        "import sys, stages.check; "
        "print([name for name in ('torch', 'numpy', 'timm', 'pandas', 'dvc', 'prefect') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
