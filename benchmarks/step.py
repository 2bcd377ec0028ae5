"""How fast a training step is, against what people run today: one line a comparison, data already on the device.

    python -m benchmarks.step --model deit-tiny [--device cpu] [--threads 2] [--batch 16] [--cases plain,strong] [--json]

plain: timm's model, or the autoencoder as published, in single precision, eager. strong: the same under bfloat16 autocast,
compiled, with a fused optimizer. fp32: ours in single precision beside plain. encoder: our encoder over visible patches
beside all patches. How it is measured: docs/performance.md.
"""

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from benchmarks import interleaved, machine, step_memory, step_ours, step_reference
from benchmarks.interleaved import Comparison
from benchmarks.step_models import MODELS, ON_GPU, TEACHER, TEACHER_IMAGES_PER_SECOND, Goals, Sizes
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
TEACHER_SIZE, TEACHER_BATCH = 224, 8


@dataclass
class Side:
    """Steps under the clock."""

    step: Step
    batch: int
    device: torch.device
    matmul: kernels.Matmul = "default"
    """Products in single precision are set for a whole process, so each side sets its own."""
    steps: int = 1
    """In a draw: the host waits for a GPU after each draw only."""
    ahead: int = field(default=0, init=False)
    extra: float = field(default=0.0, init=False)

    def draw(self) -> int:
        """Run; the device has finished when it returns."""
        kernels.multiply(self.matmul)
        for _ in range(self.steps):
            self.step()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self.batch * self.steps

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

    @property
    def sizes(self) -> Sizes | None:
        """None: the teacher."""
        return MODELS.get(self.model)

    @property
    def goals(self) -> Goals:
        """The CPU's; on a GPU no ratio is wanted but not to be slower than the strong step."""
        return self.sizes.goals if self.sizes and self.device.type == "cpu" else Goals(equal=None)

    def side(self, step: Step, matmul: kernels.Matmul = "default") -> Side:
        """A step under the clock."""
        return Side(step, self.batch, self.device, matmul, 1 if self.device.type == "cpu" else 5)

    @property
    def flops_per_image(self) -> float:
        """A step's, by the formula of the published arithmetic, whatever is left out of it."""
        sizes = self.sizes
        if sizes is None:
            with torch.device("meta"):
                network = teacher.create("regnety_160", None, 1000)
            return float(flops.FLOPS_PER_MAC * flops.counted_macs(network, TEACHER_SIZE))
        if sizes.decoder:
            return flops.training_flops(mae_macs(sizes.vit, sizes.decoder, sizes.image_size, sizes.mask_ratio))
        return flops.training_flops(flops.vit_macs(sizes.vit, sizes.image_size, sizes.classes, False))

    def batch_of(self) -> Batch:
        """Random images and everything random about them, on the device."""
        sizes, draw = self.sizes, torch.Generator().manual_seed(0)
        size, classes = (sizes.image_size, sizes.classes) if sizes else (TEACHER_SIZE, 1000)
        images = torch.randint(256, (self.batch, 3, size, size), dtype=torch.uint8, generator=draw)
        labels = torch.randint(classes, (self.batch,), generator=draw)
        patches = (size // sizes.vit.patch_size) ** 2 if sizes else 1
        noise = torch.rand(self.batch, patches, generator=draw)
        keep = torch.rand(self.batch, sizes.vit.depth if sizes else 1, 2, generator=draw)
        return Batch(images, labels, torch.arange(self.batch), noise, keep).to(self.device)


@functools.lru_cache(3)  # a model's: cases share them, and what is compiled is compiled once
def ours(bench: Bench, precision: Precision, compiled: bool) -> Side:
    """Our step."""
    sizes, batch = bench.sizes, bench.batch_of()
    if sizes is None:
        return bench.side(step_ours.labelling(batch.images, precision, compiled))
    step = (step_ours.mae if sizes.decoder else step_ours.deit)(sizes, batch, precision, compiled)
    return bench.side(step, "onednn" if torch.get_float32_matmul_precision() == "medium" else "default")


@functools.lru_cache(2)
def reference(bench: Bench, strong: bool) -> Side:
    """Theirs, on images already normalised and targets already smoothed."""
    sizes, batch = bench.sizes, bench.batch_of()
    images = normalise(batch.images).clone()
    if sizes is None:
        return bench.side(step_reference.labelling(images, strong))
    if sizes.decoder:
        assert batch.noise is not None
        return bench.side(step_reference.mae(sizes, images, batch.noise, strong))
    hot = torch.nn.functional.one_hot(batch.labels, sizes.classes).float()
    return bench.side(step_reference.deit(sizes, images, hot * 0.9 + 0.1 / sizes.classes, strong))


def plain(bench: Bench) -> StepRow:
    """Ours as presets train, against the plain step."""
    goal = bench.goals.plain
    return _compare(bench, "plain", ("bf16", "fp32"), ours(bench, "bf16", True), reference(bench, False), goal)


def strong(bench: Bench) -> StepRow:
    """Ours as presets train, against the strong step."""
    return _compare(bench, "strong", ("bf16", "bf16"), ours(bench, "bf16", True), reference(bench, True), 1.0)


def fp32(bench: Bench) -> StepRow:
    """Both in single precision, eager."""
    goal = bench.goals.equal
    return _compare(bench, "fp32", ("fp32", "fp32"), ours(bench, "fp32", False), reference(bench, False), goal)


def encoder(bench: Bench) -> StepRow:
    """Our encoder over visible patches, against itself over all of them."""
    sizes, batch = bench.sizes, bench.batch_of()
    assert sizes is not None
    sides = [bench.side(step_ours.encoder(sizes, batch, "bf16", masked)) for masked in (True, False)]
    return _compare(bench, "encoder", ("bf16", "bf16"), sides[0], sides[1], None)


RUN: dict[str, Callable[[Bench], StepRow]] = {"plain": plain, "strong": strong, "fp32": fp32, "encoder": encoder}


def _compare(
    bench: Bench, case: str, precisions: tuple[Precision, Precision], mine: Side, theirs: Side, goal: float | None
) -> StepRow:
    gpu = bench.device.type == "cuda"
    sides = [mine, theirs]
    peaks = [step_memory.peak(side.draw, bench.device) for side in sides]
    first, second = interleaved.compare(sides, bench.seconds, 1)
    found = Comparison(first, second)
    most = []
    for precision in precisions:
        if not gpu:
            kernels.multiply("onednn" if precision == "fp32" else "default")  # the better of the two is the peak
        most.append(peak.peak_flops(bench.device, precision))
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
    names, cases = options.model.split(","), options.cases.split(",")
    for what, given, known in (("--model", names, [*MODELS, TEACHER]), ("--cases", cases, CASES)):
        if unknown := [one for one in given if one not in known]:
            raise Refusal(f"{what}: {', '.join(map(repr, unknown))} is none of {', '.join(known)}")
    if options.batch < 0 or options.seconds <= 0 or options.threads < 1:
        raise Refusal("--batch, --seconds and --threads have to be above 0")
    device = use({"device": options.device, "threads": options.threads})
    machine.pin(options.threads)
    described = machine.description()
    sys.stderr.write(f"{described}\n")
    with machine.alone():
        if not options.json:
            _print(HEADER)
        for name in names:
            sizes = MODELS.get(name)
            default = ON_GPU[name] if device.type == "cuda" else sizes.batch if sizes else TEACHER_BATCH
            bench = Bench(name, device, options.batch or default, options.seconds, described)
            for case in cases:
                if case == "encoder" and not (sizes and sizes.decoder):
                    continue
                row = RUN[case](bench)
                _print(row.json() if options.json else row.text())
            ours.cache_clear()
            reference.cache_clear()
            torch.compiler.reset()


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.step", description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help=f"some of {', '.join([*MODELS, TEACHER])}, with commas")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="cores for either side (default: %(default)s)")
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
