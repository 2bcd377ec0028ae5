"""Faults in params.yaml, found by `check` before anything is spent; and in the gates' limits."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from stages import check
from tests import fabricated
from tests.faults.fault import Bench, Fault, cut, files
from tests.faults.manifests import ManifestGate
from tests.ingestion.raw_project import ROOT

TEXT = (ROOT / "params.yaml").read_text()
BLOCKS: dict[str, Any] = YAML(typ="safe").load(TEXT)
PARAMS, LIMITS = Path("params.yaml"), Path("data/expectations/manifest.json")


class Params(Bench):
    """The repository's own params.yaml."""

    kind = "params.yaml"

    def lay(self) -> None:
        """A copy."""
        PARAMS.write_text(TEXT)

    def look(self) -> None:
        """The first stage."""
        self.where = "check"
        self.patch.setattr(sys, "argv", ["check"])
        check.main()

    def inputs(self) -> dict[str, bytes]:
        """The file."""
        return files(PARAMS)

    def kept(self) -> str:
        """Nothing is written."""
        assert not Path("data").exists()
        return super().kept()


class Limits(ManifestGate):
    """A gate's limits, as a person edits them."""

    kind = "gate's limits"

    def lay(self) -> None:
        """A clean manifest."""
        shutil.copytree(ROOT / "data/expectations", "data/expectations")
        fabricated.write_manifest(Path("data"), fabricated.manifest())


def edited(pattern: str, replacement: str) -> Callable[[Params], None]:
    """One place of the file changed."""

    def plant(_: Params) -> None:
        text, count = re.subn(pattern, lambda _: replacement, TEXT, count=1, flags=re.MULTILINE)
        assert count, pattern
        PARAMS.write_text(text)

    return plant


def laughs(_: Params) -> None:
    """Ten aliases of ten aliases ...: a thousand million words once unfolded."""
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    PARAMS.write_text("\n".join(lines) + f"\n{TEXT.replace('report:', 'report: *a9 #')}")


def limit(change: Callable[[dict[str, Any]], Any]) -> Callable[[Limits], None]:
    """Edit the first expectation about images."""

    def plant(_: Limits) -> None:
        content = json.loads(LIMITS.read_text())
        change(content["tables"]["images"][0])
        LIMITS.write_text(json.dumps(content))

    return plant


RESTORE = "git checkout params.yaml"


def params(name: str, plant: Callable[[Any], object], *says: str) -> Fault:
    """Found by check."""
    return Fault(name, Params, plant, "check", (*says, RESTORE))


def limits(name: str, plant: Callable[[Any], object], *says: str) -> Fault:
    """Found by the gate."""
    return Fault(name, Limits, plant, "validate-manifest", (str(LIMITS), *says))


FAULTS = [
    params(
        "a typo in a key",
        edited("^  distill:", "  distil:"),
        "train.distil is an unknown key",
        "Did you mean 'distill'?",
    ),
    params("a typo in a block", edited("^finetune:", "fine_tune:"), "fine_tune is an unknown block", "'finetune'"),
    params(
        "a word of no choice",
        edited("^  distill: hard", "  distill: banana"),
        "train.distill is 'banana'",
        "none, soft or hard",
    ),
    params("a word for a number", edited("^  mask_ratio: 0.75", "  mask_ratio: most"), "pretrain.mask_ratio"),
    params(
        "a number in quotes",
        edited("^  mask_ratio: 0.75", "  mask_ratio: '0.75'"),
        "pretrain.mask_ratio",
        "without quotes",
    ),
    params(
        "a number out of range",
        edited("^  mask_ratio: 0.75", "  mask_ratio: 1.5"),
        "pretrain.mask_ratio is 1.5",
        "below 1",
    ),
    params(
        "a negative number",
        edited("^  images_per_shard: 256", "  images_per_shard: -1"),
        "shard.images_per_shard is -1",
    ),
    params("zero epochs", edited("^  epochs: 40", "  epochs: 0"), "pretrain.epochs is 0"),
    params("half an epoch", edited("^  epochs: 40", "  epochs: 0.5"), "pretrain.epochs is 0.5"),
    params("a number that is none", edited("^  mask_ratio: 0.75", "  mask_ratio: .nan"), "pretrain.mask_ratio"),
    params("an infinite number", edited("lr: 1.5e-3", "lr: .inf"), "pretrain.optimizer.lr"),
    params("a seed of 30 digits", edited("^  seed: 0", f"  seed: {10**30}"), "shard.seed"),
    params("true for a number", edited("^  epochs: 40", "  epochs: true"), "pretrain.epochs is true"),
    params("nothing where a value belongs", edited("^  epochs: 40", "  epochs:"), "pretrain.epochs"),
    params("a list for a block", edited(r"^evaluate:\n(  .*\n)+", "evaluate: [val, 256]\n"), "evaluate"),
    params("a block that is missing", edited(r"^evaluate:\n(  .*\n)+", ""), "evaluate is missing"),
    params("a key twice", edited("^  seed: 0", "  seed: 0\n  seed: 1"), "the key 'seed' stands twice in one block"),
    params("a block twice", edited("^evaluate:", "evaluate: {}\nevaluate:"), "the key 'evaluate' stands twice"),
    params("a tab", edited("^  seed: 0", "\tseed: 0"), "there is a tab", "spaces only"),
    params("a brace left open", edited("^  seed: 0", "  seed: {0"), "params.yaml, line"),
    params("an alias bomb", laughs, "more than 20,000 values"),
    params(
        "an alias of itself",
        edited(r"^evaluate:", "evaluate: &e\n  more: *e"),
        "more than 20,000 values",
    ),
    params(
        "100,000 nested lists",
        lambda _: PARAMS.write_text("a: " + "[" * 100_000),
        "params.yaml holds blocks more than 50 deep",
    ),
    params(
        "100,000 nested blocks",
        lambda _: PARAMS.write_text("- " * 100_000 + "1"),
        "params.yaml holds blocks more than 50 deep",
    ),
    params("a Python object", edited("^  seed: 0", "  seed: !!python/object/apply:os.getcwd []"), "params.yaml"),
    params("bytes that are no text", lambda _: PARAMS.write_bytes(b"\xff\xfe" + TEXT.encode()), "not UTF-8"),
    params("an empty file", lambda _: cut(PARAMS, 0), "params.yaml is empty"),
    params("a list at the top", lambda _: PARAMS.write_text("- 1\n"), "holds no blocks"),
    params("two documents", lambda _: PARAMS.write_text(f"{TEXT}---\n{TEXT}"), "params.yaml, line"),
    params("cut off", lambda _: cut(PARAMS, len(TEXT) // 2), "is missing"),
    Fault("gone", Params, lambda _: PARAMS.unlink(), "check", ("There is no params.yaml", RESTORE)),
    params("a set there is not", edited("^  main: digits-0-6", "  main: imagenet"), "sets names 'imagenet'"),
    params(
        "a mixing group that does not fit",
        edited("mix_group: 32", "mix_group: 33"),
        "train.views: mix_group 33 must be even",
    ),
    params(
        "an encoder of another width", edited("width: 96", "width: 48"), "needs train.model equal to pretrain.model"
    ),
    params(
        "an address of no scheme we read",
        edited("published_uri: null", "published_uri: ftp://x/y"),
        "shard.published_uri",
    ),
    params(
        "a remote teacher without a sha256",
        edited("source: train ", "source: https://x.org/a.pth "),
        "teacher",
        "sha256",
    ),
    Fault(
        "another version of a package",
        Params,
        edited(r"^  timm: .*", "  timm: 0.3.2"),
        "check",
        ("versions.timm is '0.3.2', installed is", "make setup"),
    ),
    Fault(
        "a source that is not there",
        Params,
        edited(r"^  digits-0-6: .*", "  digits-0-6: {layout: folder, path: /none/here}"),
        "check",
        ("Raw images are missing", "/none/here"),
    ),
    limits("cut off", lambda _: cut(LIMITS, 100), "git checkout"),
    limits("of another form", lambda _: LIMITS.write_text("[]"), "must be"),
    limits(
        "a column there is not", limit(lambda line: line["kwargs"].update(column="kee")), "'kee'", "Did you mean key?"
    ),
    limits("an expectation there is not", limit(lambda line: line.update(type="expect_good")), "'expect_good'"),
    limits(
        "a limit of the wrong kind",
        lambda _: LIMITS.write_text(LIMITS.read_text().replace('"min_value": 4,', '"min_value": "four",')),
        "min_value",
    ),
    limits(
        "a condition that is none",
        limit(lambda line: line["kwargs"].update(row_condition="key ==")),
        "row_condition 'key =='",
    ),
]
