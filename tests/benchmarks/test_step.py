"""The step benchmark: the reference is the published arithmetic, and a line says what was measured."""

import functools
import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks import interleaved, pictures, step, step_backends, step_memory, step_models, step_ours, step_reference
from benchmarks.step_end_to_end import UNDERWAY, FromShards
from benchmarks.step_models import Goals, Sizes
from benchmarks.step_row import StepRow
from stages.lib.core.ranks import Rank
from stages.lib.data.batch import Batch
from stages.lib.data.batches import batches
from stages.lib.data.normalise import normalise
from stages.lib.models import teacher
from stages.lib.models.mae import MAE
from stages.lib.objectives.reconstruct import Reconstruct
from stages.lib.params.pretrain import Decoder
from stages.lib.params.teacher import RegNetSizes
from stages.lib.params.vit import ViT
from stages.lib.training import kernel_memory, labelling
from tests.benchmarks import jpegs

SMALL = RegNetSizes(depth=6, w0=24, wa=24.0, wm=2.0, group_size=8, stem_width=16)
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
        (["--model", "mae", "--cases", "slow"], "--cases: 'slow' is none of plain, strong, fp32, encoder, end-to-end"),
        (["--model", "mae", "--cases", "end-to-end"], "needs images"),
        (["--model", "deit", "--batch", "4", "--images", "SOME", "--cases", "end-to-end"], "take a multiple of 64"),
        (["--model", "mae", "--seconds", "0"], "have to be above 0"),
    ],
)
def test_main__refuses(arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = str(jpegs.tar(tmp_path / "some.tar"))
    assert step.main([images if one == "SOME" else one for one in arguments]) == 2
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


def quick(arguments: list[str], tmp_path: Path) -> list[str]:
    """End to end on five small JPEGs, in single precision and without compiling, which changes nothing about the feeding."""
    images = jpegs.tar(tmp_path / "some.tar")
    return [*arguments, "--cases", "end-to-end", "--images", str(images), "--batch", "6", "--seconds", "0.05"]


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    built = step.work
    monkeypatch.setattr(step, "work", functools.lru_cache(3)(lambda bench, *_: built(bench, "fp32", False)))


@pytest.mark.usefixtures("eager")
def test_end_to_end__is_fed_by_our_loader(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each model with the views of its recipe; no thread is left."""
    assert step.main(quick(["--model", "mae,deit", "--workers", "2", "--json"], tmp_path)) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["case"] for row in rows] == ["mae/end-to-end", "deit/end-to-end"]
    for row in rows:
        assert row["goal"] is None and row["workers"] == 2 and row["batch"] == 6
        assert row["ours"] > 0 and row["reference"] > 0 and 0 < row["waiting_share"] < 1
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("loader")]


def from_shards(tmp_path: Path, step_: Callable[[Batch], object]) -> FromShards:
    """DeiT's views, six at a time, of five small JPEGs."""
    sizes, cpu = MODELS["deit"], torch.device("cpu")
    stream = step_ours.deit(sizes, 6, cpu, "fp32", False).stream
    shelved = pictures.shelve(jpegs.jpegs(), tmp_path / "shards", 12)
    return FromShards(step_ours.Work(step_, stream), shelved, 1, cpu, 1, lambda: None)


def test_from_shards__every_step_sees_another_batch_of_the_recipe(tmp_path: Path) -> None:
    seen: list[Batch] = []
    fed = from_shards(tmp_path, seen.append)
    assert fed.draw() == 6 and fed.draw() == 6
    fed.close()
    first, second = seen
    assert first.images.shape == (6, 3, 16, 16) and first.keep is not None and len(first.mixes) == 3
    assert len(set(first.positions.tolist())) == 6
    assert not torch.equal(first.images, second.images)


def test_from_shards__draining_throws_away_what_was_made_before(tmp_path: Path) -> None:
    """The batches after it are those of the same stream, so many later; without draining they are its next ones."""
    seen: list[Batch] = []
    fed = from_shards(tmp_path, seen.append)
    fed.draw()
    fed.draw()
    fed.drain()
    fed.close()
    shelved = pictures.shelve(jpegs.jpegs(), tmp_path / "again", 12)
    stream = step_ours.deit(MODELS["deit"], 6, torch.device("cpu"), "fp32", False).stream(shelved)
    wanted = list(batches(stream, 0, 3 + UNDERWAY, Rank(), 0, 1))
    for number, batch in zip((0, 1, 2 + UNDERWAY), seen, strict=True):
        assert torch.equal(batch.images, wanted[number].images)
    assert len(fed.spent) == 2  # draining is no part of what is timed


def test_waiting_share__leaves_the_first_draw_out(tmp_path: Path) -> None:
    fed = from_shards(tmp_path, lambda _: None)
    fed.spent = [(0.0, 60.0), (0.5, 1.0), (1.0, 3.0)]
    assert fed.waiting_share == 1.5 / 4
    fed.close()


@pytest.mark.parametrize(("size", "group"), [(6, 2), (16, 4), (192, 64), (1024, 64)])
def test_recipe_views__keep_the_views_of_an_image_apart(size: int, group: int) -> None:
    views = step_ours.recipe_views(size, 32)
    assert (views.mix_group, views.repeats, views.erase, views.mixup) == (group, 3, 0.25, 0.8)


def test_labelling__is_the_stages_own_pass() -> None:
    """A RegNetY of the stage's code decides as its own forward pass does; on a CPU its channels stay first."""
    torch.manual_seed(0)
    network = teacher.create("regnety_002", SMALL, 7).eval()
    batch = Batch(
        torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), torch.arange(3)
    )
    answered, way = labelling.Answered(3, 0, torch.device("cpu")), labelling.Way("fp32")
    labelling.ask_about(labelling.asked(network, way), [batch], answered, way)
    with torch.inference_mode():
        wanted = network(normalise(batch.images)).argmax(-1)
    assert answered.tensors["hard"].tolist() == wanted.tolist()


@pytest.mark.slow
def test_labelling__of_the_real_size_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert step.main(["--model", "regnety-160", "--cases", "fp32", "--batch", "1", "--seconds", "0.05", "--json"]) == 0
    (row,) = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert row["case"] == "regnety-160/fp32" and abs(row["flops_per_image"] / 2 - 15.9e9) < 0.2e9


def test_backends__each_side_sets_its_own() -> None:
    """Ours as stages run; timm's as its scripts do; and back again."""
    cudnn, precision = torch.backends.cudnn, torch.get_float32_matmul_precision()
    before = cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark
    try:
        step_backends.timm(torch.device("cuda"))()
        assert (cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark) == (True, False, True)
        assert torch.get_float32_matmul_precision() == "high"
        step_backends.ours("default")()
        assert (cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark) == (False, True, False)
        assert torch.get_float32_matmul_precision() == "highest"
        step_backends.single()
        assert (cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark) == (False, False, True)
    finally:
        torch.set_float32_matmul_precision(precision)
        cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = before
