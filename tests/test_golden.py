"""The golden check: it passes on this code, notices mistakes, and says what is missing; and figures for a clean clone."""

import json
import math
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from stages.lib.data import mixing, order
from stages.lib.models import deit, mae, positions
from stages.lib.objectives import distill, reconstruct
from stages.lib.params.optimizer import Schedule
from stages.lib.training import optimizer, schedule
from tests import golden
from tests.golden_cases import built, trajectories
from tests.golden_cases import deit as deit_case
from tests.golden_cases import mae as mae_case
from tests.golden_cases.mixing import Legacy
from tests.golden_cases.reference import summary
from tests.golden_formula import Formula

FIGURES: dict[str, Any] = json.loads((Path(__file__).parent / "golden_figures.json").read_text())
F64 = torch.float64


@pytest.fixture
def folder(shared: Path) -> Path:
    """The set to develop against."""
    return shared / "golden"


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """A copy elsewhere, to be tampered with."""
    return Path(shutil.copytree(folder, tmp_path / "elsewhere", copy_function=shutil.copyfile))


@pytest.fixture
def formula() -> Formula:
    """The figures' closed-form tensors."""
    return Formula(FIGURES["constants"])


def verdicts(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, str]]:
    """(exit code, pass or FAIL by row) of one call."""
    code = golden.main(list(arguments))
    parts = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    return code, {line[0]: line[-1].split(" ")[0] for line in parts if line[-1].startswith(("pass", "FAIL"))}


def without_imagenet(folder: Path, to: Path) -> Path:
    """The sampler's case without its million-image rows: seconds less."""
    data = json.loads((folder / "06_rasampler.json").read_text())
    small = {name: [row for row in rows if row["length"] < 1e6] for name, rows in data.items()}
    (to / "06_rasampler.json").write_text(json.dumps(small))
    for name in ("06_rasampler.npz", "constants.json"):
        shutil.copyfile(folder / name, to / name)
    return to


# the reference set, and mistakes in our code


def test_golden__every_case_passes_and_every_array_is_compared(folder: Path) -> None:
    table = golden.check(folder)
    failed = [f"{name}: {row.worst}" for name, row in table.rows.items() if not row.passed]
    assert not failed
    assert len(table.rows) > 300
    assert not [note for note in table.notes if "not checked" in note]


Patch = Callable[[pytest.MonkeyPatch], None]


def _eps(patch: pytest.MonkeyPatch) -> None:
    right = built.adapt
    patch.setattr(built, "adapt", lambda model, config: right(model, {**config, "ln_eps": 1e-5}))


def _biased(patch: pytest.MonkeyPatch) -> None:
    def wanted(patches: torch.Tensor, norm_pix: bool) -> torch.Tensor:
        spread = (patches.var(-1, keepdim=True, correction=0) + 1e-6).sqrt()
        return (patches - patches.mean(-1, keepdim=True)) / spread if norm_pix else patches

    patch.setattr(reconstruct, "wanted", wanted)


def _rows_first(patch: pytest.MonkeyPatch) -> None:
    right = positions.sincos_2d
    swapped = lambda dim, grid: right(dim, grid).roll(dim // 2, dims=1)  # noqa: E731
    patch.setattr(positions, "sincos_2d", swapped)
    patch.setattr(mae, "sincos_2d", swapped)


def _largest_noise(patch: pytest.MonkeyPatch) -> None:
    right = mae.MAE.encode
    patch.setattr(mae.MAE, "encode", lambda model, images, noise: right(model, images, -noise))


def _batch_divisor(patch: pytest.MonkeyPatch) -> None:
    right = distill.soft_distillation
    patch.setattr(distill, "soft_distillation", lambda student, teacher, tau, _: right(student, teacher, tau, "batch"))


def _softmax_fusion(patch: pytest.MonkeyPatch) -> None:
    def fused(model: Any, images: torch.Tensor) -> torch.Tensor:
        return sum(logits.softmax(-1) for logits in deit.heads(model, images, None)) / 2

    patch.setattr(deit, "mean_logits", fused)


def _betas(patch: pytest.MonkeyPatch) -> None:
    right = optimizer.build

    def other(cfg: Any, model: nn.Module, depth: int) -> torch.optim.Optimizer:
        built_optimizer = right(cfg, model, depth)
        for group in built_optimizer.param_groups:
            group["betas"] = (0.9, 0.99)
        return built_optimizer

    patch.setattr(optimizer, "build", other)


def _undecayed(patch: pytest.MonkeyPatch) -> None:
    right = optimizer.decayed
    wrong = lambda name, ndim, tokens: right(name, ndim, tokens) and not name.endswith("_token")  # noqa: E731
    patch.setattr(optimizer, "decayed", wrong)


def _shifted_layers(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(optimizer, "lr_scale", lambda layer, decay, depth: decay ** (depth - layer))


def _untruncated(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(order, "DEIT_UNIT", 1)


def _undealt(patch: pytest.MonkeyPatch) -> None:
    right = order.deit
    patch.setattr(order, "deit", lambda *settings: np.sort(right(*settings)))


def _no_lag(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(schedule, "deit_lr", schedule.deit_value)


def _antialias(patch: pytest.MonkeyPatch) -> None:
    right = positions.functional.interpolate
    patch.setattr(positions.functional, "interpolate", lambda *a, **k: right(*a, **{**k, "antialias": True}))


def _even_boxes(patch: pytest.MonkeyPatch) -> None:
    right = mixing.cutmix_box
    patch.setattr(mixing, "cutmix_box", lambda *place: right(*place[:-1], "timm-0.3.2"))


def _same_partner(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(mixing, "mix_images", lambda images, mix: images * mix.lam + images.roll(1, 0) * (1 - mix.lam))


def _loud_heads(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(deit, "initialise", lambda model: [nn.init.normal_(p, std=0.03) for p in model.parameters()])


MISTAKES: list[tuple[Patch, str, str, str]] = [
    (_eps, "01_mae_a", "01_mae_a pred f64", "01_mae_a patches"),
    (_biased, "01_mae_a", "01_mae_a loss norm_pix f64", "01_mae_a loss plain f64"),
    (_rows_first, "02", "02_pos_embed 48 channels, 4 x 4", ""),
    (_rows_first, "01_mae_a", "01_mae_a fixed positions", "01_mae_a inputs"),
    (_largest_noise, "01_mae_a", "01_mae_a masking", "01_mae_a patches"),
    (_batch_divisor, "04", "04_distill soft_ce__soft__tau3.0__alpha0.1 f64", "04_distill soft_ce__hard__tau3.0__alpha0.1 f64"),
    (_softmax_fusion, "05_deit_a", "05_deit_a eval_fused f64", "05_deit_a train_dist f64"),
    (_betas, "09_traj_mae", "09_traj_mae plain losses f64", "09_traj_mae inputs"),
    (_undecayed, "09_traj_deit", "09_traj_deit soft_default_betas weights after f64", "09_traj_deit inputs"),
    (_shifted_layers, "03_lr_groups", "03_lr_groups vit_base_patch16 averaged 0.65", ""),
    (_untruncated, "06", "06_rasampler 300 images, 4 processes", ""),
    (_undealt, "06", "06_rasampler order deit", "06_rasampler permutations"),
    (_no_lag, "07_deit_lr_timm032", "07_deit_lr_timm032 bs1024", "07_deit_lr_timm032 scaling"),
    (_antialias, "03_pos_interp", "03_pos_interp 14_to_24_extra2 f64", "03_pos_interp 7_to_7_extra2 f64"),
    (_even_boxes, "08_mixup_timm1031", "08_mixup_timm1031 main, boxes", "08_mixup_timm1031 main, targets f64"),
    (_same_partner, "08_mixup_timm032", "08_mixup_timm032 main, images", "08_mixup_timm032 main, boxes"),
    (_loud_heads, "10", "10_init_stats deit_tiny_distilled_patch16_224, share of the allowed", ""),
]  # fmt: skip


@pytest.mark.parametrize(
    ("mistake", "start", "fails", "passes"), MISTAKES, ids=[m[0].__name__ + m[1] for m in MISTAKES]
)
def test_golden__a_mistake_fails_its_case(
    mistake: Patch, start: str, fails: str, passes: str,
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    if start == "06":
        folder = without_imagenet(folder, tmp_path)
    mistake(monkeypatch)
    code, rows = verdicts(capsys, str(folder), start)
    assert code == 1
    assert rows[fails] == "FAIL"
    assert not passes or rows[passes] == "pass"


# the folder


def test_golden__a_copy_elsewhere_passes(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, rows = verdicts(capsys, str(copied), "03_lr_schedule")
    assert code == 0
    assert set(rows.values()) == {"pass"}


def test_golden__a_tampered_number_fails(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copied / "03_lr_schedule.json"
    data = json.loads(path.read_text())
    data["schedules"][0]["returned"][7] += 1e-12
    path.write_text(json.dumps(data))
    code, rows = verdicts(capsys, str(copied), "03_lr_schedule")
    assert code == 1
    assert list(rows.values()) == ["FAIL", "pass"]


def test_golden__a_tampered_array_fails(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copied / "03_pos_interp.npz"
    arrays = dict(np.load(path))
    arrays["out_14_to_10_extra1_f64"][0, 50, 3] += 1e-9
    np.savez(path, **arrays)
    code, rows = verdicts(capsys, str(copied), "03_pos_interp")
    assert code == 1
    assert [name for name, verdict in rows.items() if verdict == "FAIL"] == ["03_pos_interp 14_to_10_extra1 f64"]


def test_golden__other_constants_are_used(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    constants = json.loads((copied / "constants.json").read_text())
    (copied / "constants.json").write_text(json.dumps({**constants, "A": constants["A"] + 2}))
    code, rows = verdicts(capsys, str(copied), "03_pos_interp")
    assert code == 1
    assert rows["03_pos_interp inputs"] == "FAIL"


def test_golden__missing_and_unknown_files_are_named(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("07_deit_lr_timm1031.json", "04_distill.npz", "01_mae_a.npz"):
        (copied / name).unlink()
    (copied / "11_surprise.json").write_text("{}")
    table = golden.check(copied, "04"), golden.check(copied, "07"), golden.check(copied, "01_mae_a")
    assert [row.worst for one in table for row in one.rows.values() if not row.passed] == [
        "missing: 04_distill.npz", "missing: the manifest lists it",
        "missing: 07_deit_lr_timm1031.json", "missing: the manifest lists it",
        "missing: 01_mae_a.npz", "missing: the manifest lists it",
    ]  # fmt: skip
    for path in copied.glob("[01]*.*"):
        path.unlink()
    (copied / "11_surprise.json").write_text("{}")
    (copied / "manifest.json").unlink()
    assert golden.main([str(copied)]) == 1
    out = capsys.readouterr().out
    assert "missing: 05_deit_a.json, 05_deit_a.npz" in out
    assert "files not checked: 11_surprise.json" in out


def test_golden__an_array_nobody_compares_is_named(copied: Path) -> None:
    path = copied / "03_pos_interp.npz"
    np.savez(path, **dict(np.load(path)), left_over=np.zeros(2))
    assert "03_pos_interp.npz: arrays not checked: left_over" in golden.check(copied, "03_pos_interp").notes


def test_golden__a_lost_array_fails_its_case_alone(copied: Path) -> None:
    path = copied / "03_pos_interp.npz"
    arrays = dict(np.load(path))
    del arrays["out_14_to_24_extra1_f32"]
    np.savez(path, **arrays)
    table = golden.check(copied, "03")
    failed = {name: row.worst for name, row in table.rows.items() if not row.passed}
    assert list(failed) == ["03_pos_interp stopped"]
    assert "no array out_14_to_24_extra1_f32" in failed["03_pos_interp stopped"]


def test_golden__nothing_to_check_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert golden.main([]) == 2
    assert golden.main([str(tmp_path / "nowhere")]) == 1
    assert "constants.json" in capsys.readouterr().out


def test_golden__models_follow_a_config_beyond_our_recipes(formula: Formula) -> None:
    config = {**FIGURES["mae"]["config"], "mlp_ratio": 3.0, "ln_eps": 1e-5, "embed_dim": 40, "img_size": 24}
    model = built.mae(config, formula, F64)
    assert model.blocks[0].mlp.fc1.weight.shape == (120, 40)
    assert model.decoder_blocks[1].mlp.fc2.weight.shape == (32, 96)
    assert {module.eps for module in model.modules() if isinstance(module, nn.LayerNorm)} == {1e-5}
    with pytest.raises(ValueError, match="RGB"):
        built.mae({**config, "in_chans": 1}, formula, F64)


# figures that come with the repository


def figures_inputs(formula: Formula, name: str) -> mae_case.Inputs:
    """Images and noise of the MAE figures."""
    config = FIGURES["mae"]["config"]
    side, patches = config["img_size"], (config["img_size"] // config["patch_size"]) ** 2
    images = formula.images(name.format("images"), (config["batch"], 3, side, side))
    noise = formula.noise(name.format("noise"), (config["batch"], patches))
    return mae_case.Inputs(torch.from_numpy(images).double(), torch.from_numpy(noise).double())


@pytest.mark.parametrize("kind", ["plain", "norm_pix"])
def test_figures__mae_loss(kind: str, formula: Formula) -> None:
    model = built.mae(FIGURES["mae"]["config"], formula, F64)
    given = figures_inputs(formula, "mae.a.{}")
    assert model.encode(given.images, given.noise)[3].tolist() == FIGURES["mae"]["ids_keep"]
    loss = mae_case.Reconstruct(model, kind == "norm_pix")(given.batch)["loss"]
    loss.backward()
    assert loss.item() == pytest.approx(FIGURES["mae"]["loss"][kind], abs=1e-10)
    if kind == "norm_pix":
        for name, theirs in FIGURES["mae"]["gradients"].items():
            ours = summary(formula, name, model.get_parameter(name).grad)
            assert {key: ours[key] for key in theirs} == pytest.approx(theirs, abs=1e-10), name


def test_figures__mae_loss_notices_a_wrong_eps(formula: Formula, monkeypatch: pytest.MonkeyPatch) -> None:
    _eps(monkeypatch)
    model = built.mae(FIGURES["mae"]["config"], formula, F64)
    loss = mae_case.Reconstruct(model, False)(figures_inputs(formula, "mae.a.{}").batch)["loss"]
    assert loss.item() != pytest.approx(FIGURES["mae"]["loss"]["plain"], abs=1e-8)


def test_figures__mae_trajectory(formula: Formula) -> None:
    config, losses = (FIGURES["mae"]["trajectory"][key] for key in ("config", "losses"))
    model = built.mae(FIGURES["mae"]["config"], formula, F64)
    cfg = trajectories.adamw(config, trajectories.MAE_BETAS, "all")
    run = trajectories.Run("norm_pix", "f64", mae_case.Reconstruct(model, True), model, cfg, {})
    batches = [figures_inputs(formula, f"traj.mae.{{}}.{step}").batch for step in range(config["steps"])]
    assert [run.step(batch).item() for batch in batches] == pytest.approx(losses, abs=1e-9)


def test_figures__distilled_logits_and_trajectory(formula: Formula) -> None:
    sizes, theirs = FIGURES["deit"]["config"], FIGURES["deit"]["trajectory"]
    config, shape = theirs["config"], (sizes["batch"], 3, sizes["img_size"], sizes["img_size"])
    model = built.student(sizes, formula, F64, distilled=True)
    logits = deit.heads(model, torch.from_numpy(formula.images("deit.a.images", shape)).double(), None)
    for ours, name in zip(logits, ("train_cls", "train_dist"), strict=True):
        assert ours.detach().numpy() == pytest.approx(np.array(FIGURES["deit"][name]), abs=1e-10)
    answers = formula.table("traj.deit.teacher", (config["steps"] * sizes["batch"], sizes["num_classes"]), 2.5)
    objective = trajectories.Distill(
        model, trajectories.Answers(torch.from_numpy(answers).double(), sizes["batch"]), theirs["kind"],
        classes=sizes["num_classes"], smoothing=config["smoothing"], alpha=theirs["alpha"], tau=theirs["tau"],
    )  # fmt: skip
    cfg = trajectories.adamw(config, theirs["betas"], "dist")
    run = trajectories.Run("hard", "f64", objective, model, cfg, {})
    for step, loss in enumerate(theirs["losses"]):
        images = torch.from_numpy(formula.images(f"traj.deit.images.{step}", shape)).double()
        labels = torch.from_numpy(formula.labels(f"traj.deit.labels.{step}", sizes["batch"], sizes["num_classes"]))
        batch = trajectories.Batch(images, labels, labels, mixes=(mixing.Mix(config["lam"], None),))
        assert run.step(batch).item() == pytest.approx(loss, abs=1e-9), step


def test_figures__distillation_losses(formula: Formula) -> None:
    config = FIGURES["distill"]["config"]
    shape, amplitude = (config["B"], config["C"]), config["amp"]
    labels = torch.from_numpy(formula.labels("dist.labels", *shape))
    mix = mixing.Mix(config["lam"], None)
    targets = {
        "soft_ce": mixing.mix_targets(labels, config["C"], config["smoothing"], mix),
        "bce": mixing.mix_targets(labels, config["C"], 0.0, mix),
    }
    for one in FIGURES["distill"]["cases"]:
        first, second, teacher = (
            torch.from_numpy(formula.table(f"dist.{name}", shape, scale * amplitude)).double()
            for name, scale in (("student_cls", 1.0), ("student_dist", 1.0), ("teacher", 1.2))
        )
        second.requires_grad_()
        if one["base"] in targets:
            wanted = targets[one["base"]].double()
        else:
            smoothing = float(one["base"].removeprefix("label_smoothing_")) if "_" in one["base"] else 0.0
            wanted = mixing.mix_targets(labels, config["C"], smoothing, mixing.Mix(1.0, None), F64)
        base = (distill.binary_cross_entropy if one["base"] == "bce" else distill.soft_cross_entropy)(first, wanted)
        loss = base
        if one["type"] != "none":
            soft = distill.soft_distillation(second, teacher, one["tau"], "elements")
            hard = distill.hard_distillation(second, teacher)
            loss = distill.total(base, soft if one["type"] == "soft" else hard, one["alpha"])
            loss.backward()
        assert loss.item() == pytest.approx(one["loss"], abs=1e-10), one
        gradient = 0.0 if second.grad is None else float(second.grad.norm())
        assert gradient == pytest.approx(one["gdist"], abs=1e-10), one


def test_figures__positions(formula: Formula) -> None:
    for entry in FIGURES["sincos"]:
        table = positions.sincos_2d(entry["dim"], entry["grid"]).numpy()
        probe = formula.probe(f"pos.{entry['dim']}.{entry['grid']}", table.shape)
        ramp = np.arange(table.size).reshape(table.shape) / table.size
        ours = [table.sum(), np.abs(table).sum(), (table**2).sum(), (table * probe).sum(), (table * ramp).sum()]
        assert ours == pytest.approx(
            [entry[k] for k in ("sum", "sum_abs", "sum_sq", "probe_dot", "ramp_dot")], abs=1e-8
        )
    for one in FIGURES["resampled"]:
        extra = one["extra_tokens"]
        table = formula.table(f"interp.{one['key']}", (1, one["old_grid"] ** 2 + extra, one["dim"]))
        ours = positions.resample(torch.from_numpy(table).double(), one["new_grid"], extra)
        assert [ours.sum(), (ours**2).sum()] == pytest.approx([one["sum"], one["sum_sq"]], abs=1e-9)
        assert ours[0, -1, :4].tolist() == pytest.approx(one["last"], abs=1e-10)


def test_figures__layer_decay_and_rates() -> None:
    theirs = FIGURES["layer_decay"]
    depth = theirs["depth"]
    for name, (layer, scale, decay, _) in theirs["params"].items():
        ndim = 1 if name.endswith(("bias", "norm1.weight", "norm.weight")) else 2
        assert optimizer.layer_id(name, depth) == layer
        assert optimizer.lr_scale(layer, theirs["layer_decay"], depth) == pytest.approx(scale, abs=1e-15)
        assert optimizer.decayed(name, ndim, "none") == (decay > 0)
    for one in FIGURES["mae_lr"]:
        settings = (one["lr"], one["min_lr"], one["warmup_epochs"], one["epochs"])
        assert [schedule.mae_lr(e, *settings) for e in one["epochs_at"]] == pytest.approx(one["rates"], abs=1e-15)
    one = FIGURES["deit_lr"]
    cfg = Schedule(kind="deit-epoch", **{name: one[name] for name in ("min_lr", "warmup_lr", "warmup_epochs")})
    for epoch, rate in one["used"].items():
        ours = schedule.learning_rate(cfg, one["scaled_lr"], int(epoch) * 7 + 6, 7, one["epochs"])
        assert ours == pytest.approx(rate, abs=1e-15)


def test_figures__sampler() -> None:
    for one in FIGURES["sampler"]:
        settings = [one[name] for name in ("length", "num_repeats", "num_replicas", "rank", "epoch", "shuffle")]
        selected = order.deit_replica(*settings)
        assert len(selected) == one["num_selected_samples"]
        assert zlib.crc32(selected.astype("<i8").tobytes()) == one["crc32"], one


def test_figures__mixing() -> None:
    for one in FIGURES["mixing"]:
        for seed, lam, box, following in one["rows"]:
            legacy = Legacy(seed)
            mix = mixing.draw(legacy, *one["settings"], one["box_style"])
            assert mix.lam == pytest.approx(lam, abs=1e-15)
            assert mix.box == (tuple(box) if box else None)
            assert legacy.random() == following


def test_figures__sizes() -> None:
    for length, ratio, keep in FIGURES["visible"]:
        assert mae.visible(length, ratio) == keep
    sizes = {"deit_tiny": 192, "deit_small": 384, "deit_base": 768}
    for name, count in FIGURES["parameters"].items():
        width = sizes["_".join(name.split("_")[:2])]
        vit = deit_case.built.ViT(patch_size=16, width=width, depth=12, heads=width // 64)
        with torch.device("meta"):
            model = deit.create(vit, 224, 1000, True, 0.0)
        assert sum(math.prod(p.shape) for p in model.parameters()) == count
