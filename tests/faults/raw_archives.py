"""Faults in raw archives, found by `scan` where it lists a plain tar, by `ingest` where it opens what is compressed or official."""

import gzip
import io
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

from tests.faults.fault import Fault, cut, flip
from tests.faults.raw_images import GOOD, Folder
from tests.ingestion import official
from tests.ingestion.raw_project import png, tar_of

Member = tuple[str, bytes, bytes, str]
"""(name, content, tar's type, link's target)."""


class Tar(Folder):
    """The same good images in a plain tar."""

    kind = "raw tar"
    archive = "things.tar"

    def lay(self) -> None:
        """A tar and its parameters."""
        super().lay()
        self.source(self.archive)
        self.write([])

    def write(self, more: list[Member], kind: int = tarfile.GNU_FORMAT) -> Path:
        """The good images, and these members behind them."""
        path = self.raw / self.archive
        with tarfile.open(path, "w", format=kind) as tar:
            for name, data, sort, target in [
                *((name, data, tarfile.REGTYPE, "") for name, data in GOOD.items()),
                *more,
            ]:
                info = tarfile.TarInfo(name)
                info.size, info.type, info.linkname = len(data), sort, target
                tar.addfile(info, io.BytesIO(data))
        os.utime(path, (1, 1))
        return path


class Gzipped(Tar):
    """And in a compressed one."""

    kind = "raw tar.gz"
    archive = "things.tar.gz"

    def write(self, more: list[Member], kind: int = tarfile.GNU_FORMAT) -> Path:
        """As a tar, then compressed."""
        path = super().write(more, kind)
        path.write_bytes(gzip.compress(path.read_bytes(), mtime=0))
        return path


class Cifar(Folder):
    """CIFAR-10's archive in miniature."""

    kind = "raw CIFAR-10"
    layout = "cifar"

    def lay(self) -> None:
        """The archive in a folder of its own."""
        super().lay()
        self.source("cifar")
        official.cifar10(self.raw / "cifar")

    def batch(self, change: Callable[[bytes], bytes]) -> None:
        """Another content for the first batch."""
        path = self.raw / "cifar/cifar-10-python.tar.gz"
        with tarfile.open(path) as tar:
            found = {one.name: tar.extractfile(one).read() for one in tar if one.isreg()}  # type: ignore[union-attr]
        name = next(name for name in found if name.endswith("data_batch_1"))
        path.write_bytes(official.tar_bytes({**found, name: change(found[name])}, "w:gz"))


class WebDataset(Folder):
    """Somebody's tars of samples."""

    kind = "raw WebDataset"
    layout = "webdataset"

    def lay(self) -> None:
        """In a folder of their own."""
        super().lay()
        self.source("wds")
        official.webdataset_tars(self.raw / "wds", info=False)

    def sample(self, files: dict[str, bytes]) -> None:
        """One more, in a tar that lies there."""
        path = sorted((self.raw / "wds").rglob("*train*.tar"))[0]
        with tarfile.open(path) as tar:
            found = {one.name: tar.extractfile(one).read() for one in tar if one.isreg()}  # type: ignore[union-attr]
        path.write_bytes(official.tar_bytes({**found, **files}))


class Flowers(Folder):
    """Flowers-102 in miniature."""

    kind = "raw Flowers-102"
    layout = "flowers-102"

    def lay(self) -> None:
        """The archive and its two tables."""
        super().lay()
        self.source("flowers")
        official.flowers(self.raw / "flowers")

    def file(self, name: str) -> Path:
        """One of the three."""
        return next((self.raw / "flowers").rglob(name))


class Hub(Folder):
    """The hub's parquet files in miniature."""

    kind = "raw parquet"
    layout = "hub"

    def lay(self) -> None:
        """In a folder of their own."""
        super().lay()
        self.source("hub")
        official.hub(self.raw / "hub")


class Runs:
    """Pickled, it makes a folder when it is read: what a virus would do."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("/tmp/tutelage-was-here",)


def pickled(_: bytes) -> bytes:
    """A batch that runs code."""
    return pickle.dumps({"labels": [1], "data": Runs()}, protocol=2)


def bad(name: str, member: Member, *says: str) -> list[Fault]:
    """The member in a plain tar, found by scan, and in a compressed one, found by ingest."""
    return [
        Fault(name, Tar, lambda bench: bench.write([member]), "scan", says),
        Fault(name, Gzipped, lambda bench: bench.write([member]), "ingest", says),
    ]


IMAGE, PLAIN = png(70), tarfile.REGTYPE
ANEW = "Write the tar anew"


def joined(bench: Tar) -> None:
    """Two tars one after the other, as `cat` does."""
    path = bench.raw / bench.archive
    path.write_bytes(path.read_bytes() + tar_of(bench.folder / "other.tar", {"b/9.png": IMAGE}).read_bytes())


def huge(bench: Tar) -> None:
    """A member that says it has two GiB; behind its header there is little."""
    info = tarfile.TarInfo("a/x.png")
    info.size = 2 << 30
    path = bench.raw / bench.archive
    path.write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 16)))


def mangled(bench: Tar) -> None:
    """A name that is not UTF-8: written by hand, as tarfile would not."""
    path = bench.write([("a/xxxx.png", IMAGE, PLAIN, "")])
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    at = data.index(b"a/xxxx.png")
    header = bytearray(data[at : at + 512])
    header[2:6] = b"\xff\xfe\xff\xfe"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    data = data[:at] + bytes(header) + data[at + 512 :]
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def second_header(bench: Tar) -> int:
    """Where it begins in a plain tar."""
    return (bench.raw / bench.archive).read_bytes().index(b"a/1.png")


FAULTS = [
    *bad(
        "a path that leads out with ../",
        ("../x.png", IMAGE, PLAIN, ""),
        "holds '../x.png'",
        "leads out of the tar",
        ANEW,
    ),
    *bad("an absolute path", ("/etc/x.png", IMAGE, PLAIN, ""), "holds '/etc/x.png'", "leads out of the tar", ANEW),
    *bad(
        "a symbolic link",
        ("a/x.png", b"", tarfile.SYMTYPE, "/etc/passwd"),
        "a/x.png",
        "a link to '/etc/passwd'",
        "--dereference",
    ),
    *bad(
        "a hard link", ("a/x.png", b"", tarfile.LNKTYPE, "a/1.png"), "a/x.png", "a link to 'a/1.png'", "--dereference"
    ),
    *bad("a device", ("a/x.png", b"", tarfile.CHRTYPE, ""), "a/x.png", "no plain file", ANEW),
    *bad("a pipe", ("a/x.png", b"", tarfile.FIFOTYPE, ""), "a/x.png", "no plain file", ANEW),
    *bad("a name that occurs twice", ("a/1.png", IMAGE, PLAIN, ""), "holds 'a/1.png' twice", ANEW),
    Fault("a name that is not UTF-8", Tar, mangled, "scan", ("a name that is not UTF-8", ANEW)),
    Fault("a name that is not UTF-8", Gzipped, mangled, "ingest", ("a name that is not UTF-8", ANEW)),
    Fault(
        "cut inside an image",
        Tar,
        lambda bench: cut(bench.raw / bench.archive, second_header(bench) + 600),
        "scan",
        ("cut off inside 'a/1.png'", "Get the tar again"),
    ),
    Fault(
        "cut inside a header",
        Tar,
        lambda bench: cut(bench.raw / bench.archive, second_header(bench) + 100),
        "scan",
        ("things.tar", "Get"),
    ),
    Fault(
        "a flipped byte in a header",
        Tar,
        lambda bench: flip(bench.raw / bench.archive, second_header(bench) + 3),
        "scan",
        ("the header at byte", "is damaged", "Get the tar again"),
    ),
    Fault("two tars joined with cat", Tar, joined, "scan", ("goes on after its end mark", "tar --concatenate")),
    Fault(
        "compressed, and named .tar",
        Tar,
        lambda bench: (bench.raw / bench.archive).write_bytes(gzip.compress(b"x")),
        "scan",
        ("gzip-compressed", "Rename it"),
    ),
    Fault(
        "no tar at all",
        Tar,
        lambda bench: (bench.raw / bench.archive).write_bytes(b"hello " * 500),
        "scan",
        ("things.tar", "Get"),
    ),
    Fault(
        "cut in the middle",
        Gzipped,
        lambda bench: cut(bench.raw / bench.archive, 2000),
        "ingest",
        ("things.tar.gz", "Get it again"),
    ),
    Fault(
        "a flipped byte",
        Gzipped,
        lambda bench: flip(bench.raw / bench.archive, 2000),
        "ingest",
        ("things.tar.gz", "Get it again"),
    ),
    Fault(
        "an image of two GiB",
        Gzipped,
        huge,
        "ingest",
        ("a/x.png", "2,147,483,648 bytes", "write the archive anew without it"),
    ),
    Fault(
        "a batch that runs code when unpickled",
        Cifar,
        lambda bench: bench.batch(pickled),
        "ingest",
        ("data_batch_1", "mkdir", "official file"),
    ),
    Fault(
        "a batch cut off",
        Cifar,
        lambda bench: bench.batch(lambda data: data[:-500]),
        "ingest",
        ("data_batch_1", "Get the official file"),
    ),
    Fault(
        "labels out of range",
        Cifar,
        lambda bench: bench.batch(
            lambda _: official.python2_pickle(
                {"labels": [10], "data": official.np.zeros((1, 3072), "u1"), "filenames": ["x.png"]}
            )
        ),
        "ingest",
        ("data_batch_1",),
    ),
    Fault(
        "fewer labels than images",
        Cifar,
        lambda bench: bench.batch(
            lambda _: official.python2_pickle(
                {"labels": [1], "data": official.np.zeros((2, 3072), "u1"), "filenames": ["x.png", "y.png"]}
            )
        ),
        "ingest",
        ("data_batch_1",),
    ),
    Fault(
        "a sample without a label",
        WebDataset,
        lambda bench: bench.sample({"new.jpg": official.jpeg(1)}),
        "ingest",
        ("new.jpg", "has no new.cls beside it", "ingest.max_bad"),
    ),
    Fault(
        "a label that is no number",
        WebDataset,
        lambda bench: bench.sample({"new.jpg": official.jpeg(1), "new.cls": b"cat"}),
        "ingest",
        ("new.jpg", "ingest.max_bad"),
    ),
    Fault(
        "labels that are missing",
        Flowers,
        lambda bench: bench.file("imagelabels.mat").unlink(),
        "ingest",
        ("imagelabels.mat", "needs the images"),
    ),
    Fault(
        "labels cut off",
        Flowers,
        lambda bench: cut(bench.file("imagelabels.mat"), 150),
        "ingest",
        ("imagelabels.mat", "again"),
    ),
    Fault(
        "the archive's second half is missing",
        Flowers,
        lambda bench: cut(bench.file("102flowers.tgz"), -3000),
        "ingest",
        ("102flowers.tgz", "Get it again"),
    ),
    Fault(
        "cut off",
        Hub,
        lambda bench: cut(next((bench.raw / "hub").rglob("*train*.parquet")), -100),
        "ingest",
        (".parquet", "Get it again"),
    ),
    Fault(
        "a flipped byte in its table of contents",
        Hub,
        lambda bench: flip(next((bench.raw / "hub").rglob("*train*.parquet")), -60),
        "ingest",
        (".parquet", "again"),
    ),
]
