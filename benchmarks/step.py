"""How fast a training step is, against what people run today: one line a comparison.

    python -m benchmarks.step --model deit-tiny [--device cpu] [--threads 2] [--batch 16] [--cases plain,strong] [--json]
    python -m benchmarks.step --model deit-tiny --images <tar of JPEGs> [--workers 16] ...

plain: timm's model, or the autoencoder as published, in single precision, eager. strong: the same under bfloat16 autocast,
compiled, with a fused optimizer. fp32: ours in single precision beside plain. encoder: our encoder over visible patches
beside all patches. end-to-end, with --images: our step fed from shards beside itself on a batch that lies ready. How it is
measured: docs/performance.md.
"""

import argparse
import functools
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from benchmarks import interleaved, machine, pictures, step_backends, step_memory, step_ours, step_reference
from benchmarks.interleaved import Comparison
from benchmarks.step_end_to_end import FromShards
from benchmarks.step_models import (
    MODELS,
    ON_GPU,
    TEACHER,
    TEACHER_BATCH,
    TEACHER_CLASSES,
    TEACHER_IMAGES_PER_SECOND,
    TEACHER_SIZE,
    Goals,
    Sizes,
)
from benchmarks.step_ours import EPOCH_STEPS, Work
from benchmarks.step_row import HEADER, StepRow
from stages.lib.core.outcome import Refusal
from stages.lib.data.batch import Batch
from stages.lib.data.normalise import normalise
from stages.lib.models import flops, teacher
from stages.lib.models.mae_flops import mae_macs
from stages.lib.params.precision import Precision
from stages.lib.training import kernels, peak
from stages.lib.training.device import use

Step = Callable[[], object]
CASES = ("plain", "strong", "fp32", "encoder")
END_TO_END = "end-to-end"
AT_ONCE = {"cpu": 1, "cuda": 5}
"""Steps in a draw: the host waits for a GPU after each draw only."""


@dataclass
class Side:
    """Steps under the clock."""

    step: Step
    batch: int
    device: torch.device
    begin: Callable[[], None]
    """Sets torch's backends."""
    held: int = 0
    """Bytes on a GPU that stay from one step to the next: weights, optimizer state, gradients, the batch."""
    ahead: int = field(default=0, init=False)
    extra: float = field(default=0.0, init=False)

    def draw(self) -> int:
        """Run; the device has finished when it returns."""
        self.begin()
        steps = AT_ONCE[self.device.type]
        for _ in range(steps):
            self.step()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self.batch * steps

    def close(self) -> None:
        """Nothing works ahead."""


@dataclass(frozen=True)
class Bench:
    """What every case of a model shares."""

    model: str
    device: torch.device
    batch: int
    seconds: float
    described: str
    images: tuple[bytes, ...] = ()
    """JPEGs that shards are made of."""
    workers: int = 1
    """Loader threads."""

    @property
    def sizes(self) -> Sizes | None:
        """None: the teacher."""
        return MODELS.get(self.model)

    @property
    def goals(self) -> Goals:
        """The CPU's; on a GPU no ratio is wanted but not to be slower than the strong step."""
        return self.sizes.goals if self.sizes and self.device.type == "cpu" else Goals(equal=None)

    @property
    def flops_per_image(self) -> float:
        """A step's, by the formula of the published arithmetic, whatever is left out of it."""
        sizes = self.sizes
        if sizes is None:
            with torch.device("meta"):
                network = teacher.create("regnety_160", None, TEACHER_CLASSES)
            return float(flops.FLOPS_PER_MAC * flops.counted_macs(network, TEACHER_SIZE))
        if sizes.decoder:
            return flops.training_flops(mae_macs(sizes.vit, sizes.decoder, sizes.image_size, sizes.mask_ratio))
        return flops.training_flops(flops.vit_macs(sizes.vit, sizes.image_size, sizes.classes, False))

    def batch_of(self) -> Batch:
        """Random images and everything random about them, on the device."""
        sizes, draw = self.sizes, torch.Generator().manual_seed(0)
        size, classes = (sizes.image_size, sizes.classes) if sizes else (TEACHER_SIZE, TEACHER_CLASSES)
        images = torch.randint(256, (self.batch, 3, size, size), dtype=torch.uint8, generator=draw)
        labels = torch.randint(classes, (self.batch,), generator=draw)
        patches = (size // sizes.vit.patch_size) ** 2 if sizes else 1
        noise = torch.rand(self.batch, patches, generator=draw)
        keep = torch.rand(self.batch, sizes.vit.depth if sizes else 1, 2, generator=draw)
        return Batch(images, labels, torch.arange(self.batch), noise, keep).to(self.device)


@functools.lru_cache(3)  # a model's: cases share them, and what is compiled is compiled once
def work(bench: Bench, precision: Precision, compiled: bool) -> Work:
    """What our stage does with a batch."""
    sizes = bench.sizes
    if sizes is None:
        return step_ours.labelling(bench.batch, bench.device, precision, compiled)
    return (step_ours.mae if sizes.decoder else step_ours.deit)(sizes, bench.batch, bench.device, precision, compiled)


@functools.lru_cache(3)
def ours(bench: Bench, precision: Precision, compiled: bool) -> Side:
    """Our step on a batch that lies ready."""

    def build() -> Side:
        mine, batch = work(bench, precision, compiled), bench.batch_of()
        return Side(lambda: mine.step(batch), bench.batch, bench.device, step_backends.ours(mine.matmul))

    return _held(build, bench.device)


@functools.lru_cache(3)
def reference(bench: Bench, strong: bool, like_ours: bool = False) -> Side:
    """Theirs, on images already normalised and targets already smoothed. like_ours: in full single precision also on a GPU, where
    timm's scripts take TF32."""
    begin = step_backends.single if like_ours else step_backends.timm(bench.device)
    return _held(lambda: Side(_theirs(bench, strong), bench.batch, bench.device, begin), bench.device)


def _theirs(bench: Bench, strong: bool) -> Step:
    sizes, batch = bench.sizes, bench.batch_of()
    images = normalise(batch.images).clone()
    if sizes is None:
        return step_reference.labelling(images, strong)
    if sizes.decoder:
        assert batch.noise is not None
        return step_reference.mae(sizes, images, batch.noise, strong)
    hot = torch.nn.functional.one_hot(batch.labels, sizes.classes).float()
    return step_reference.deit(sizes, images, hot * 0.9 + 0.1 / sizes.classes, strong)


def _held(build: Callable[[], Side], device: torch.device) -> Side:
    """The side, with what it holds once its optimizer has made its state: in the first step, which also compiles."""
    if device.type != "cuda":
        return build()
    before = torch.cuda.memory_allocated(device)
    side = build()
    side.draw()
    return replace(side, held=torch.cuda.memory_allocated(device) - before)


def plain(bench: Bench) -> StepRow:
    """Ours as presets train, against the plain step."""
    goal = bench.goals.plain
    theirs: step_reference.Format = "tf32" if bench.device.type == "cuda" else "fp32"
    return _compare(bench, "plain", ("bf16", theirs), ours(bench, "bf16", True), reference(bench, False), goal)


def strong(bench: Bench) -> StepRow:
    """Ours as presets train, against the strong step."""
    return _compare(bench, "strong", ("bf16", "bf16"), ours(bench, "bf16", True), reference(bench, True), 1.0)


def fp32(bench: Bench) -> StepRow:
    """Both in single precision, eager."""
    goal = bench.goals.equal
    theirs = reference(bench, False, like_ours=bench.device.type == "cuda")
    return _compare(bench, "fp32", ("fp32", "fp32"), ours(bench, "fp32", False), theirs, goal)


def encoder(bench: Bench) -> StepRow:
    """Our encoder over visible patches, against itself over all of them."""
    sizes, batch = bench.sizes, bench.batch_of()
    assert sizes is not None
    sides = [
        Side(step_ours.encoder(sizes, batch, "bf16", masked), bench.batch, bench.device, step_backends.ours("default"))
        for masked in (True, False)
    ]
    return _compare(bench, "encoder", ("bf16", "bf16"), sides[0], sides[1], None)


def end_to_end(bench: Bench) -> StepRow:
    """Our step fed from shards, against the same step (the same weights even) on one of those batches that lies ready."""
    held = ours(bench, "bf16", True).held
    mine = work(bench, "bf16", True)
    begin = step_backends.ours(mine.matmul)
    with tempfile.TemporaryDirectory(prefix="tutelage-benchmark-") as name:
        shelved = pictures.shelve(bench.images, Path(name) / "shards", EPOCH_STEPS * bench.batch)
        fed = FromShards(mine, shelved, bench.workers, bench.device, AT_ONCE[bench.device.type], begin)
        fed.held = held
        batch = fed.first()
        ready = Side(lambda: mine.step(batch), bench.batch, bench.device, begin, held)
        row = _compare(bench, END_TO_END, ("bf16", "bf16"), fed, ready, None)
    return replace(row, waiting_share=fed.waiting_share, workers=bench.workers)


RUN: dict[str, Callable[[Bench], StepRow]] = {
    "plain": plain,
    "strong": strong,
    "fp32": fp32,
    "encoder": encoder,
    END_TO_END: end_to_end,
}


def _compare(
    bench: Bench,
    case: str,
    precisions: tuple[step_reference.Format, step_reference.Format],
    mine: Side | FromShards,
    theirs: Side,
    goal: float | None,
) -> StepRow:
    gpu = bench.device.type == "cuda"
    sides = [mine, theirs]
    peaks = [side.held + step_memory.peak(side.draw, bench.device) for side in sides]
    first, second = interleaved.compare(sides, bench.seconds, 1)
    found = Comparison(first, second)
    most = [_peak_flops(bench.device, precision) for precision in precisions]
    kernels.multiply("default")
    rates = [_median([one.rate for one in slices]) for slices in (first, second)]
    wanted = bench.sizes.goals if bench.sizes and gpu and case == "strong" else Goals()
    return StepRow(
        case=f"{bench.model}/{case}",
        ours=rates[0],
        reference=rates[1],
        ratio=found.ratio,
        goal=goal,
        mfu=0.0 if case == "encoder" else rates[0] * bench.flops_per_image / most[0][0],
        reference_mfu=0.0 if case == "encoder" else rates[1] * bench.flops_per_image / most[1][0],
        peak_bytes=peaks[0],
        reference_peak_bytes=peaks[1],
        ratio_min=min(found.ratios),
        ratio_max=max(found.ratios),
        ratio_cpu=None if gpu else found.cpu_ratio,
        goal_mfu=wanted.mfu,
        goal_images_per_second=TEACHER_IMAGES_PER_SECOND if gpu and bench.sizes is None and case == "strong" else None,
        slices=len(first),
        batch=bench.batch,
        precision=precisions[0],
        reference_precision=precisions[1],
        peak_flops=most[0][0],
        peak_source=most[0][1],
        flops_per_image=bench.flops_per_image,
        others=max(one.others for one in [*first, *second]),
        machine=bench.described,
    )


def _peak_flops(device: torch.device, precision: step_reference.Format) -> tuple[float, peak.Source]:
    """TF32 reaches half of bfloat16 on every GPU that has it."""
    if precision == "tf32":
        most, source = peak.peak_flops(device, "bf16")
        return most / 2, source
    if device.type == "cpu":
        kernels.multiply("onednn" if precision == "fp32" else "default")  # the better of the two is the peak
    return peak.peak_flops(device, precision)


def _median(values: Sequence[float]) -> float:
    return float(torch.tensor(values, dtype=torch.float64).quantile(0.5))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 0, or 2 where a person has to put something right."""
    options = _options(arguments)
    try:
        _measure(options)
    except Refusal as refusal:
        sys.stderr.write(f"{refusal}\n")
        return 2
    return 0


def _measure(options: argparse.Namespace) -> None:
    names, cases = options.model.split(","), _cases(options)
    _refuse_unknown("--model", names, [*MODELS, TEACHER])
    _refuse_unknown("--cases", cases, [*CASES, END_TO_END])
    if options.batch < 0 or options.seconds <= 0 or options.threads < 0 or options.workers < 0:
        raise Refusal("--batch, --seconds, --threads and --workers have to be above 0")
    here = len(os.sched_getaffinity(0))
    threads = options.threads or (here if options.device == "cuda" else 1)
    workers = (options.workers or here) if options.images else 0
    device = use({"device": options.device, "threads": threads})
    machine.pin(max(threads, min(workers, here)))
    torch.set_num_threads(threads)
    described = machine.description()
    sys.stderr.write(f"{described}\n")
    images = tuple(pictures.collect(options.images)[0]) if options.images else ()
    with machine.alone():
        if not options.json:
            _print(HEADER)
        for name in names:
            bench = Bench(name, device, options.batch, options.seconds, described, images, workers)
            _of_model(replace(bench, batch=options.batch or _batch_of(name, device)), cases, options.json)


def _cases(options: argparse.Namespace) -> list[str]:
    """The end-to-end case runs wherever there are images, and nowhere else. Raises Refusal."""
    cases: list[str] = options.cases.split(",")
    if END_TO_END in cases and not options.images:
        raise Refusal(f"--cases {END_TO_END} needs images to make shards of; name a tar of JPEGs with --images")
    return cases if END_TO_END in cases or not options.images else [*cases, END_TO_END]


def _refuse_unknown(what: str, given: Sequence[str], known: Sequence[str]) -> None:
    if unknown := [one for one in given if one not in known]:
        raise Refusal(f"{what}: {', '.join(map(repr, unknown))} is none of {', '.join(known)}")


def _batch_of(name: str, device: torch.device) -> int:
    """What fills the device."""
    if device.type == "cuda":
        return ON_GPU[name]
    return MODELS[name].batch if name in MODELS else TEACHER_BATCH


def _of_model(bench: Bench, cases: Sequence[str], as_json: bool) -> None:
    for case in cases:
        if case == "encoder" and not (bench.sizes and bench.sizes.decoder):
            continue
        row = RUN[case](bench)
        _print(row.json() if as_json else row.text())
    for kept in (ours, reference, work):
        kept.cache_clear()
    torch.compiler.reset()


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.step", description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help=f"some of {', '.join([*MODELS, TEACHER])}, with commas")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="compute threads (default: 1; beside a GPU a core each)")
    parser.add_argument("--images", type=Path, help=f"a tar of JPEGs: the case {END_TO_END} is measured too")
    parser.add_argument("--workers", type=int, default=0, help="loader threads for it (default: one a core)")
    parser.add_argument("--batch", type=int, default=0, help="images in a batch (default: the model's, by device)")
    parser.add_argument("--seconds", type=float, default=10.0, help="timed, a side and case (default: %(default)s)")
    parser.add_argument("--cases", default=",".join(CASES), help="some of: %(default)s")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    return parser.parse_args(arguments)


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
