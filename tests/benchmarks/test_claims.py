"""Verdicts are arithmetic with known answers, and docs/claims.md is what the results say."""

import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

from benchmarks.claims import arena, collect, images, page, results, verdict
from benchmarks.claims.arena import ROOT, Arena, overridden, stages
from benchmarks.claims.claims import CLAIMS
from benchmarks.claims.recipes import BASE, CIFAR, HARD, SOFT, Claim, Variant, with_
from stages.lib.core import load
from stages.lib.core.outcome import Refusal
from stages.lib.params.everything import Everything

DIGITS = {name: {"layout": "folder", "path": name, "embedded": name} for name in ("digits-0-6", "digits-7-9")}


def right(share: float, images: int = 4000, start: int = 0) -> np.ndarray:
    """bool[images], of which `share` are right: those from place `start` on, round the end."""
    return np.roll(np.arange(images) < round(share * images), start)


def test_t_interval__by_hand() -> None:
    # mean 2, standard deviation 1, n 3: 2 +- 4.302653 / sqrt(3)
    low, high = verdict.over_seeds(np.array([1.0, 2.0, 3.0])) or (0, 0)
    assert (low, high) == pytest.approx((2 - 2.484138, 2 + 2.484138), abs=1e-5)


def test_image_interval__by_hand() -> None:
    # 4 of 8 images gained, none lost: mean 50 %, sd of (0 or 100) is 53.4522, half = 1.959964 * 53.4522 / sqrt(8)
    found = verdict.of_images([np.ones(8, bool)] * 2, [right(0.5, 8)] * 2)
    assert found.mean == 50
    assert found.over_images == pytest.approx((50 - 37.0398, 50 + 37.0398), abs=1e-3)


def test_verdict__a_clear_difference_holds() -> None:
    better, worse = [right(0.62), right(0.61), right(0.63)], [right(0.50), right(0.50), right(0.51)]
    found = verdict.of_images(better, worse)
    assert found.mean == pytest.approx(35 / 3)
    assert found.verdict == "holds"


def test_verdict__the_other_way_round_does_not_hold() -> None:
    better, worse = [right(0.62), right(0.61), right(0.63)], [right(0.50), right(0.50), right(0.51)]
    assert verdict.of_images(worse, better).verdict == "does not hold"
    assert verdict.of_numbers([1.0, 1.1, 1.2], [2.0, 2.1, 2.2]).verdict == "does not hold"


def test_verdict__seeds_that_disagree_are_not_distinguishable() -> None:
    found = verdict.of_images([right(0.62), right(0.48), right(0.60)], [right(0.5)] * 3)
    assert found.over_images is not None and found.over_images[0] > 0, "the images alone would have said: holds"
    assert found.verdict == "not distinguishable"


def test_verdict__few_images_are_not_distinguishable() -> None:
    found = verdict.of_images([right(0.6, 10)] * 3, [right(0.6, 10, 3), right(0.5, 10, 3), right(0.5, 10, 3)])
    assert found.verdict == "not distinguishable"


def test_verdict__equal_sides_and_a_single_seed_are_not_distinguishable() -> None:
    assert verdict.of_images([right(0.6)] * 3, [right(0.6)] * 3).verdict == "not distinguishable"
    assert verdict.of_images([right(0.9)], [right(0.1)]).verdict == "not distinguishable"


def test_packed__gives_the_same_images_back() -> None:
    mask = np.random.default_rng(0).random(4001) < 0.5
    assert np.array_equal(collect.unpacked(collect.packed(mask), 4001), mask)


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=lambda claim: claim.name)
def test_recipes__params_yaml_takes_every_one(claim: Claim, tmp_path: Path) -> None:
    text = (ROOT / "params.yaml").read_text()
    for variant in claim.variants:
        values = overridden(text, {**BASE, **variant.changes, **dict.fromkeys(variant.seeds, 2)})
        with (path := tmp_path / f"{variant.name}.yaml").open("w") as file:
            YAML().dump(values, file)
        load.whole(Everything, path)


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=lambda claim: claim.name)
def test_claims__contrasts_name_recipes_and_reasons_name_contrasts(claim: Claim) -> None:
    names = [variant.name for variant in claim.variants]
    assert len(set(names)) == len(names)
    assert {side[0] for one in claim.contrasts for side in (one.higher, one.lower)} <= set(names)
    assert set(claim.reasons) <= {contrast.says for contrast in claim.contrasts}


def test_stages__a_recipe_runs_what_it_needs_in_order() -> None:
    scratch, both = Variant("scratch", {}), Variant("both", {**HARD, "train.init": "mae"}, teacher=True)
    assert stages(scratch, with_(BASE, scratch.changes)) == ["distill", "validate-model@student", "evaluate@student"]
    assert stages(both, with_(BASE, both.changes)) == [
        "teacher",
        "validate-model@teacher",
        "pretrain",
        "validate-model@mae",
        "distill",
        "validate-model@student",
        "evaluate@student",
        "evaluate@teacher",
    ]


def test_measure__runs_what_is_missing_and_takes_what_another_claim_has(monkeypatch: Any, tmp_path: Path) -> None:
    ran: list[tuple[str, int]] = []

    def make(_: str, variant: Variant, seed: int, __: Any) -> dict[str, Any]:
        ran.append((variant.name, seed))
        return {"model": variant.model, "changes": results.changed(variant, seed), "numbers": {}, "heads": {}}

    monkeypatch.setattr(results, "FOLDER", tmp_path)
    monkeypatch.setattr(results, "made", make)
    first = Claim("first", "", "", "", (Variant("plain", {}), Variant("hard", HARD)), ())
    second = Claim("second", "", "", "", (Variant("also-plain", {"data.subset": 100}), Variant("soft", SOFT)), ())
    results.measure(first, ["plain", "hard"], [0, 1], Arena(tmp_path))
    assert ran == [("plain", 0), ("plain", 1), ("hard", 0), ("hard", 1)]
    results.measure(first, ["plain", "hard"], [0, 1, 2], Arena(tmp_path))
    assert ran[4:] == [("plain", 2), ("hard", 2)]
    results.measure(second, ["also-plain", "soft"], [0], Arena(tmp_path))
    assert ran[6:] == [("soft", 0)], "the plain recipe has been run for the first claim"
    with pytest.raises(Refusal, match="no recipe sfot"):
        results.measure(second, ["sfot"], [0], Arena(tmp_path))


def test_images__the_same_ones_whatever_the_order_of_the_archive(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setattr(images, "SHARES", {"train": 3, "val": 1, "test": 2})
    members = [f"{split}/{name}/{n}.jpg" for split in ("train", "test") for name in ("cat", "dog") for n in range(6)]
    made = []
    for order in (members, members[::-1]):
        with tarfile.open(tmp_path / "all.tar.gz", "w:gz") as tar:
            for name in order:
                images._put(tar, f"./{name}", name.encode())
        images.make(tmp_path / "all.tar.gz", tmp_path / "raw")
        made.append((tmp_path / "raw" / f"{CIFAR}.tar").read_bytes())
    assert made[0] == made[1]
    with tarfile.open(tmp_path / "raw" / f"{CIFAR}.tar") as tar:
        names = tar.getnames()
    assert len(names) == len(set(names)) == 2 * (3 + 1 + 2)
    of = {split: {name.partition("/")[2] for name in names if name.startswith(split)} for split in ("train", "val")}
    assert not of["train"] & of["val"], "an image learnt from is not measured with"


def test_page__is_what_the_results_say() -> None:
    assert (results.FOLDER.parent / "claims.md").read_text() == page.text(), "run python -m benchmarks.claims table"


def test_results__accuracies_are_those_of_the_images() -> None:
    for claim in CLAIMS:
        for run in results.read(claim)["runs"]:
            for head in run["heads"].values():
                share = 100 * collect.unpacked(head["right"], run["images"]).mean()
                assert head["top1"] == pytest.approx(share, abs=1e-3)


@pytest.mark.slow
def test_run__a_small_claim_through_dvc(monkeypatch: Any, tmp_path: Path) -> None:
    quick = {"teacher.views.epochs": 10, "pretrain.epochs": 2, "train.views.epochs": 12, "transfer.views.epochs": 2}
    warm = {f"{block}.schedule.warmup_epochs": 0 for block in ("teacher", "pretrain", "train", "transfer")}
    base = {**quick, **warm, "sources": DIGITS, "sets.main": "digits-7-9", "sets.transfer": ["digits-0-6"]}
    base |= {"train.distill": "none", "train.teacher": "none", "train.init": "scratch"}
    for module in (arena, results):
        monkeypatch.setattr(module, "BASE", base)
    monkeypatch.setattr(results, "FOLDER", tmp_path / "found")
    variants = (
        Variant("plain", {}, set_name="digits-7-9"),
        Variant("both", {**HARD, "train.init": "mae"}, set_name="digits-7-9", teacher=True),
        Variant("moved", {}, model="transfer-digits-0-6", set_name="digits-0-6"),
    )
    claim, place = Claim("small", "", "", "", variants, ()), Arena(tmp_path)
    place.prepare(list(DIGITS))
    results.measure(claim, ["plain", "both", "moved"], [0], place)
    plain, both, moved = results.read("small")["runs"]
    assert [len(plain["heads"]), len(both["heads"]), len(moved["heads"])] == [1, 3, 1]
    for run in (plain, both, moved):
        for head in run["heads"].values():
            assert head["top1"] == pytest.approx(100 * collect.unpacked(head["right"], run["images"]).mean(), abs=1e-3)
    layers = [key for key in both["numbers"] if key.removeprefix("cosine_").isdigit()]
    assert len(layers) == 1 + 4, "the input and four blocks"
    assert 0 <= both["numbers"]["dist_teacher"] <= 100
    logs = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "logs").iterdir()}
    results.measure(claim, ["plain", "both", "moved"], [0], place)
    assert logs == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "logs").iterdir()}, "nothing ran again"
