"""What `python -m benchmarks.loader` compares: one function a path, each yields its lines."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

from benchmarks import memory as memories
from benchmarks import ours, quality, reference, sharding
from benchmarks.interleaved import Comparison, Slice, compare
from benchmarks.loader_row import LoaderRow
from benchmarks.ours import Finish, Ours
from benchmarks.pictures import Pictures, shelve, shortened
from benchmarks.quality import Fidelity
from benchmarks.reference import Reference, WebDataset
from stages.lib.data.ahead import Meter
from stages.lib.data.batch import Batch

SIZE, CROP_PCT, SHORT = 224, 0.875, 256
"""Pixels of a view; evaluation's share of the shorter side, and that side: floor(224 / 0.875)."""
READ_BYTES = 256e6
"""Reading goes round in more than any processor's cache holds."""


@dataclass(frozen=True)
class Bench:
    """What every path starts from."""

    pictures: Pictures
    folder: Path
    """Temporary."""
    cores: int
    batch: int
    seconds: float
    """Timed, of each side of a path."""
    source: str
    machine: str

    def reference(
        self, pictures: Pictures, transform: reference.Transform, shuffled: bool = True, repeats: int = 1
    ) -> Reference:
        """A DataLoader over these pictures."""
        return Reference(pictures, transform, self.batch, self.cores, shuffled, repeats)


def mae(bench: Bench) -> Iterator[LoaderRow]:
    """MAE's crops of the original images."""
    cfg = ours.pretraining(bench.batch)
    stream = ours.mae_stream(bench.pictures, cfg)
    theirs = [bench.reference(bench.pictures, reference.mae(SIZE, cfg.scale))]
    rows, _ = _both(bench, "mae", 2.4, lambda: ours.endless(stream, bench.cores), ours.normalised, theirs, stream.meter)
    found = quality.of_stream(stream, quality.view(bench.pictures, cfg), bench.cores)
    yield from (_with(row, found) for row in rows)


def mae_short(bench: Bench) -> Iterator[LoaderRow]:
    """The same out of smaller stored images; the reference reads the originals, a second one the stored images."""
    small = shelve(
        [shortened(jpeg) for jpeg in bench.pictures.jpegs], bench.folder / "short", len(bench.pictures.index)
    )
    cfg = ours.pretraining(bench.batch)
    stream = ours.mae_stream(small, cfg)
    theirs = [bench.reference(pictures, reference.mae(SIZE, cfg.scale)) for pictures in (bench.pictures, small)]
    rows, on_small = _both(
        bench, "mae-short-320", 4.0, lambda: ours.endless(stream, bench.cores), ours.normalised, theirs, stream.meter
    )
    found = quality.of_stream(stream, quality.view(small, cfg, bench.pictures), bench.cores)
    exact = quality.of_stream(stream, quality.view(small, cfg), bench.cores)
    kilobytes, before = (
        sum(map(len, pictures.jpegs)) / len(pictures.jpegs) / 1e3 for pictures in (small, bench.pictures)
    )
    for row, comparison in zip(rows, on_small, strict=True):
        note = f"{comparison.ratio:.2f} against the reference on the same files; {kilobytes:.1f} kB an image, not {before:.1f}"
        extra = {
            "ratio_same_files": comparison.ratio,
            "psnr_mean_same_files": exact.mean,
            "psnr_p1_same_files": exact.p1,
            "kilobytes": kilobytes,
            "kilobytes_original": before,
        }
        yield replace(_with(row, found), note="; ".join(filter(None, (row.note, note))), extra={**row.extra, **extra})


def deit(bench: Bench) -> Iterator[LoaderRow]:
    """DeiT's augmentation, one view of an image."""
    return _deit(bench, "deit", 2.5, 1)


def deit_repeated(bench: Bench) -> Iterator[LoaderRow]:
    """The same, three views of an image; the reference decodes it for each of them, as the published sampler makes it."""
    return _deit(bench, "deit-repeated", 4.0, 3)


def evaluation(bench: Bench) -> Iterator[LoaderRow]:
    """Resize and centre crop, in the order of the index."""
    theirs = [bench.reference(bench.pictures, reference.evaluation(SIZE, CROP_PCT), shuffled=False)]

    def source() -> Iterator[Batch]:
        return ours.evaluated(bench.pictures, bench.batch, bench.cores)

    rows, _ = _both(bench, "evaluation", 2.2, source, ours.normalised, theirs)
    found = quality.of_evaluation(source(), bench.pictures, SIZE, SHORT)
    yield from (_with(row, found) for row in rows)


def read(bench: Bench) -> Iterator[LoaderRow]:
    """Samples out of shards by one thread, without decoding."""
    total = sum(map(len, bench.pictures.jpegs))
    many = shelve(list(bench.pictures.jpegs) * max(1, round(READ_BYTES / total)), bench.folder / "read")
    theirs, mine = compare([WebDataset(many, ours.READ_CHUNK), ours.Read(many)], bench.seconds / 2, 1)
    kilobytes = total / len(bench.pictures.jpegs) / 1e3
    row = _row(bench, "read", "bytes", 10.0, Comparison(mine, theirs))
    yield replace(
        row,
        ours=1e6 / row.ours,
        reference=1e6 / row.reference,
        unit="us/sample",
        cores=1,
        batch=ours.READ_CHUNK,
        note=f"{kilobytes:.0f} kB a sample; ours in random order; the goal is in us/sample",
        extra={"kilobytes": kilobytes},
    )


def build(bench: Bench) -> Iterator[LoaderRow]:
    """Shards out of files: `build-large` and `build-small`, as benchmarks.sharding times them."""
    for number, found in enumerate(sharding.rows(bench.pictures.jpegs, bench.cores)):
        size = "large" if number < 2 else "small"  # two of each: against fewer members, then against as many
        told = {"path": f"build-{size}", "note": f"{found.path}; {found.note}"}
        yield LoaderRow(
            **{**asdict(found), **told}, output="tars", cores=bench.cores, source=bench.source, machine=bench.machine
        )


def memory(bench: Bench) -> Iterator[LoaderRow]:
    """Resident memory by length of the index, and by epochs."""
    found = memories.measure(bench.pictures, bench.folder, bench.batch, bench.cores, bench.seconds)
    growth = found.many_mb - found.few_mb
    yield LoaderRow(
        path="memory",
        ours=found.many_mb,
        reference=found.few_mb,
        ratio=found.many_mb / found.few_mb,
        goal=None,
        unit="MB",
        output="resident",
        note=(
            f"ours with {found.rows[1]:,} rows, reference: ours with {found.rows[0]:,}; {growth:+.1f} MB, "
            f"{found.bytes_per_row:.0f} bytes a row; {found.slope_kb:+.0f} kB an epoch over {len(found.epoch_mb)} epochs"
        ),
        batch=bench.batch,
        cores=bench.cores,
        extra={
            "growth_mb": growth,
            "bytes_per_row": found.bytes_per_row,
            "slope_kb_per_epoch": found.slope_kb,
            "epochs": len(found.epoch_mb),
            "first_epoch_mb": found.epoch_mb[0],
            "last_epoch_mb": found.epoch_mb[-1],
        },
        source=bench.source,
        machine=bench.machine,
    )


PATHS: dict[str, Callable[[Bench], Iterator[LoaderRow]]] = {
    "mae": mae,
    "mae-short-320": mae_short,
    "deit": deit,
    "deit-repeated": deit_repeated,
    "evaluation": evaluation,
    "read": read,
    "build": build,
    "memory": memory,
}


def _deit(bench: Bench, path: str, goal: float, repeats: int) -> Iterator[LoaderRow]:
    views = ours.classifying(bench.batch, repeats)
    stream = ours.classifier_stream(bench.pictures, views)
    transform = reference.deit(SIZE, views.randaugment, views.erase)
    theirs = [bench.reference(bench.pictures, transform, repeats=repeats)]
    rows, _ = _both(bench, path, goal, lambda: ours.endless(stream, bench.cores), ours.erased, theirs, stream.meter)
    found = quality.of_stream(stream, quality.view(bench.pictures, views), bench.cores)
    yield from (_with(row, found) for row in rows)


def _both(
    bench: Bench,
    path: str,
    goal: float,
    source: Callable[[], Iterator[Batch]],
    finish: Finish,
    theirs: Sequence[Reference],
    meter: Meter | None = None,
) -> tuple[list[LoaderRow], list[Comparison]]:
    """Like for like, then as shipped, each against the first reference; and both again against the last one."""
    extra = ours.seconds_on_device(source(), finish)
    mine = [Ours(source(), finish), Ours(source(), None, extra)]
    slices = compare([*theirs, *mine], bench.seconds, bench.cores)
    alike, shipped = (
        _row(bench, path, output, wanted, Comparison(found, slices[0]))
        for output, wanted, found in zip(("float32", "uint8"), (goal, None), slices[-2:], strict=True)
    )
    shipped = replace(
        shipped,
        note=f"{extra * 1e3:.1f} ms a batch to normalise it on {ours.device().type} included",
        extra={"normalise_ms_per_batch": extra * 1e3},
        ratio_cpu=None,  # it would leave normalising out
    )
    spent = meter.milliseconds() if meter else {}  # of both our sides, whose threads do the same
    return [replace(row, spent=spent) for row in (alike, shipped)], [
        Comparison(found, slices[len(theirs) - 1]) for found in slices[-2:]
    ]


def _row(bench: Bench, path: str, output: str, goal: float | None, found: Comparison) -> LoaderRow:
    return LoaderRow(
        path=path,
        ours=median(one.rate for one in found.ours),
        reference=median(one.rate for one in found.reference),
        ratio=found.ratio,
        goal=goal,
        unit="images/s",
        output=output,
        ratio_min=min(found.ratios),
        ratio_max=max(found.ratios),
        ratio_cpu=found.cpu_ratio,
        slices=len(found.ours),
        images=sum(one.images for one in found.ours),
        reference_images=sum(one.images for one in found.reference),
        batch=bench.batch,
        cores=bench.cores,
        cores_ours=_used(found.ours),
        cores_reference=_used(found.reference),
        others=max(one.others for one in [*found.ours, *found.reference]),
        source=bench.source,
        machine=bench.machine,
    )


def _used(slices: Sequence[Slice]) -> float:
    return sum(one.cpu for one in slices) / sum(one.clock for one in slices)


def _with(row: LoaderRow, found: Fidelity) -> LoaderRow:
    return replace(row, psnr_mean=found.mean, psnr_p1=found.p1, identical=found.identical, crops=found.crops)
