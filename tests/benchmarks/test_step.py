"""The step benchmark: the reference is the published arithmetic, and a line says what was measured."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import interleaved, step, step_memory, step_models, step_ours, step_reference
from benchmarks.step_models import Goals, Sizes
from benchmarks.step_row import StepRow
from stages.lib.data.normalise import normalise
from stages.lib.models.mae import MAE
from stages.lib.objectives.reconstruct import Reconstruct
from stages.lib.params.pretrain import Decoder
from stages.lib.params.vit import ViT
from stages.lib.training import kernel_memory

TINY = ViT(patch_size=4, width=24, depth=2, heads=3)
MODELS = {
    "mae": Sizes(TINY, 16, 4, decoder=Decoder(width=16, depth=1, heads=2), goals=Goals(plain=3.2)),
    "deit": Sizes(TINY, 16, 4, classes=5),
}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Tiny models, few slices, a memory and a lock of their own."""
    monkeypatch.setattr(step, "MODELS", MODELS)
    monkeypatch.setattr(interleaved, "TRIES", 1)
    monkeypatch.setattr(kernel_memory, "place", lambda: tmp_path / "kernels.json")
    monkeypatch.setattr("benchmarks.machine.pin", lambda _: None)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def test_reference__is_the_objective_our_stage_trains() -> None:
    """The same weights, images and mask give the same loss; another mask does not."""
    sizes = MODELS["mae"]
    torch.manual_seed(0)
    theirs = step_reference.PublishedMAE(sizes)
    ours = MAE(16, sizes.vit, sizes.decoder, 0.75)  # type: ignore[arg-type]
    names = {"embed": "patch_embed", "encoder.2": "norm", "encoder": "blocks", "into": "decoder_embed"}
    names |= {"decoder.1": "decoder_norm", "decoder": "decoder_blocks", "predict": "decoder_pred"}
    names |= {"cls": "cls_token", "mask": "mask_token", "places": "pos_embed", "decoder_places": "decoder_pos_embed"}
    state = {}
    for name, value in theirs.state_dict().items():
        start = next(old for old in sorted(names, key=len, reverse=True) if name == old or name.startswith(f"{old}."))
        state[names[start] + name.removeprefix(start)] = value
    ours.load_state_dict(state)
    bench = step.Bench("mae", torch.device("cpu"), 4, 0.1, "")
    batch = bench.batch_of()
    assert batch.noise is not None
    images = normalise(batch.images)
    loss = Reconstruct(ours, True)(batch)["loss"]
    assert abs(loss - theirs(images, batch.noise)) < 1e-5
    assert abs(loss - theirs(images, batch.noise.flip(1))) > 1e-4


def test_main__prints_a_line_a_case(capsys: pytest.CaptureFixture[str]) -> None:
    """Single precision and the encoder, which need no compiler."""
    assert step.main(["--model", "mae,deit", "--cases", "fp32,encoder", "--seconds", "0.05", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["case"] for row in rows] == ["mae/fp32", "mae/encoder", "deit/fp32"]
    for row in rows:
        assert {"case", "ours", "reference", "ratio", "goal", "mfu", "peak_bytes"} <= row.keys()
        assert row["ours"] > 0 and row["reference"] > 0 and row["slices"] == 3
    assert [row["goal"] for row in rows] == [1.8, None, 1.8]
    assert rows[0]["mfu"] > 0 and rows[0]["peak_source"] == "measured"


@pytest.mark.slow
def test_main__with_compiled_sides(capsys: pytest.CaptureFixture[str]) -> None:
    assert step.main(["--model", "deit", "--cases", "plain,strong", "--seconds", "0.05"]) == 0
    assert "deit/strong" in capsys.readouterr().out
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "resnet"], "--model: 'resnet' is none of mae, deit, regnety-160"),
        (["--model", "mae", "--cases", "slow"], "--cases: 'slow' is none of plain, strong, fp32, encoder"),
        (["--model", "mae", "--seconds", "0"], "have to be above 0"),
    ],
)
def test_main__refuses(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert step.main(arguments) == 2
    assert said in capsys.readouterr().err


def test_row__says_which_goals_are_missed() -> None:
    row = StepRow("m/strong", 90.0, 100.0, 0.9, 1.0, 0.51, 0.4, 10, 10, goal_mfu=0.5, goal_images_per_second=100.0)
    assert row.misses == ["1x", "100 images/s"] and "MISSED: 1x, 100 images/s" in row.text()
    assert json.loads(row.json())["ratio"] == 0.9


def test_peak__sees_what_a_step_takes() -> None:
    big = 64 << 20
    assert step_memory.peak(lambda: torch.ones(big // 4).sum(), torch.device("cpu")) > 0.8 * big
    assert step_memory.peak(lambda: None, torch.device("cpu")) < big / 4


def test_models__of_the_benchmark_are_the_published_ones() -> None:
    """Names, sizes and goals as docs/performance.md lists them."""
    assert {*step_models.MODELS, step_models.TEACHER} == set(step_models.ON_GPU)
    assert {name: sizes.goals.plain for name, sizes in step_models.MODELS.items() if sizes.goals.plain} == {
        "deit-tiny": 3.2,
        "mae-base": 3.2,
        "micro-deit": 3.0,
        "micro-mae": 3.0,
    }
    assert step_ours.PRESETS.is_dir()
