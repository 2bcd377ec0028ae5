"""Faults in a raw image folder, found by `scan` and `ingest`."""

import csv
import io
import os
import socket
import struct
import sys
import zipfile
import zlib
from pathlib import Path

from ruamel.yaml import YAML

from stages import ingest, scan
from tests.faults.fault import Bench, Fault, files
from tests.ingestion.raw_project import ROOT, encoded, folder_of, picture, png

NAMES = ("ingest", "sources", "shard", "system", "versions")
DEFAULT = {name: block for name, block in YAML(typ="safe").load(ROOT / "params.yaml").items() if name in NAMES}
GOOD = {f"{name}/{n}.png": png(10 * k + n) for k, name in enumerate("ab") for n in range(4)}
GOOD |= {"a/photo.jpg": encoded(picture(30, (64, 48)), "JPEG"), "b/named wrongly.JPEG": png(31)}
SPLITS = {f"{split}/{name}": data for split in ("train", "val") for name, data in GOOD.items()}


class Folder(Bench):
    """Ten good images of two classes, one of them a PNG with a JPEG's name."""

    kind = "raw images"
    STAGES = (("scan", scan.main), ("ingest", ingest.main))
    layout = "folder"

    def lay(self) -> None:
        """A folder and its parameters."""
        for name in ("stages", "dvc.yaml"):
            (self.folder / name).symlink_to(ROOT / name)
        self.source("things")
        folder_of(self.raw / "things", GOOD)

    @property
    def raw(self) -> Path:
        """The raw root."""
        return self.folder / "data/raw"

    def source(self, path: str, max_bad: int = 0) -> None:
        """What params.yaml says of the source."""
        changes = {"sources": {"things": {"layout": self.layout, "path": path}}, "ingest": {"max_bad": max_bad}}
        values = {**DEFAULT, "sources": changes["sources"], "ingest": {**DEFAULT["ingest"], **changes["ingest"]}}
        values["system"] = {**DEFAULT["system"], "processes": 1}
        self.path = path
        with (self.folder / "params.yaml").open("w") as file:
            YAML(typ="safe").dump(values, file)

    def put(self, name: str, data: bytes) -> None:
        """One more file, or another in its place."""
        folder_of(self.raw / "things", {name: data})

    def instead(self, images: dict[str, bytes]) -> None:
        """Another folder of images."""
        self.source("others")
        folder_of(self.raw / "others", images)

    def look(self) -> None:
        """scan, then ingest."""
        for stage, main in self.STAGES:
            self.where = stage
            self.patch.setattr(sys, "argv", [self.where, "things"])
            main()

    def inputs(self) -> dict[str, bytes]:
        """The raw images."""
        return files(self.raw)

    def kept(self) -> str:
        """With leave to go on, every good image has its row, and the bad one its reason."""
        assert not (self.folder / "data/manifest/things.parquet").exists(), "half a manifest"
        super().kept()
        if not self.rejects:
            return "nothing written"
        self.source(self.path, max_bad=1)
        self.look()
        import pyarrow.parquet as pq

        members = set(pq.read_table("data/manifest/things.parquet", columns=["member"])["member"].to_pylist())
        with open("data/manifest/things-rejected.csv", newline="", encoding="utf-8") as file:
            ((rejected, reason),) = list(csv.reader(file))[1:]
        assert (members, rejected) == (set(GOOD) - {self.rejects}, self.rejects)
        return f"{len(members)} good images kept; recorded: {reason}"


JPEG = GOOD["a/photo.jpg"]
LARGE = encoded(picture(40, (64, 64)))


def chunk(kind: bytes, data: bytes) -> bytes:
    """Of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width: int, height: int, *more: bytes) -> bytes:
    """A PNG that says so of itself and holds one row of pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")
    )


def zipped() -> bytes:
    """An archive that holds a good image."""
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("1.png", png(1))
        return file.getvalue()


def postscript() -> bytes:
    """What Pillow would hand to a program."""
    return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n" + b"(/etc/passwd) (r) file\n" * 9


def scrambled(data: bytes, at: int) -> bytes:
    """With one byte flipped."""
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


BAD = {
    "JPEG cut off": ("a/x.jpg", JPEG[: len(JPEG) // 2], "runcated"),
    "JPEG cut in its last bytes": ("a/x.jpg", JPEG[:-40], "truncated"),
    "JPEG of its first marker alone": ("a/x.jpg", JPEG[:2], "no image that can be read"),
    "file of zero bytes": ("a/x.png", b"", "the file is empty (0 bytes)"),
    "words instead of an image": ("b/x.png", b"not an image", "no image that can be read"),
    "an error page saved as a JPEG": (
        "b/x.jpg",
        b"<html><body>404 Not Found</body></html>",
        "no image that can be read",
    ),
    "a zip archive named .png": ("a/x.png", zipped(), "no image that can be read"),
    "PostScript named .jpg": ("a/x.jpg", postscript(), "no image that can be read"),
    "decompression bomb": ("a/x.png", png_of(60_000, 60_000), "decompression bomb"),
    "text bomb inside a PNG": (
        "a/x.png",
        png_of(8, 1, chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(90 << 20)))),
        "too large",
    ),
    "PNG cut off": ("a/x.png", LARGE[:-60], ""),
    "PNG with a flipped byte in its pixels": ("a/x.png", scrambled(LARGE, len(LARGE) // 2), ""),
    "PNG without width": ("a/x.png", png_of(0, 1), ""),
    "WebP cut off": ("b/x.webp", encoded(picture(41, (64, 64)), "WEBP")[:-30], ""),
    "GIF cut off": ("b/x.gif", encoded(picture(42, (64, 64)), "GIF")[:-300], "truncated"),
    "TIFF cut off": ("b/x.tif", encoded(picture(43, (64, 64)), "TIFF")[:-300], ""),
    "JPEG 2000 cut off": ("b/x.jp2", encoded(picture(44, (64, 64)), "JPEG2000")[:-300], ""),
    "image in no class folder": ("stray.png", png(50), "lies in no class folder"),
}  # name -> (file, its bytes, the reason)


def rejected(name: str, file: str, data: bytes, reason: str) -> Fault:
    """A bad image beside good ones."""
    says = (f"{file}: ", reason, "things-rejected.csv", "Repair or remove", "ingest.max_bad")
    return Fault(name, Folder, lambda bench: bench.put(file, data), "ingest", says, rejects=file)


def named(bench: Folder, name: bytes) -> None:
    """A file whose name is these bytes."""
    path = os.path.join(os.fsencode(bench.raw), b"things", b"a", name)
    with open(path, "wb") as file:
        file.write(png(60))


def listening(bench: Folder) -> None:
    """A socket among the images."""
    with socket.socket(socket.AF_UNIX) as one:
        here = os.getcwd()
        os.chdir(bench.raw / "things/a")  # the path of a socket may be no longer than 107 bytes
        try:
            one.bind("x.png")
        finally:
            os.chdir(here)


def between(bench: Folder, change: str) -> None:
    """Something happens after the scan and before ingestion."""

    def late() -> None:
        path = bench.raw / "things/a/1.png"
        path.unlink() if change == "gone" else path.write_bytes(png(77))
        ingest.main()

    bench.STAGES = (("scan", scan.main), ("ingest", late))
    bench.inputs = dict  # they do change, by this fault's own hand


def without(part: str) -> dict[str, bytes]:
    """SPLITS without the files that begin so."""
    return {name: data for name, data in SPLITS.items() if not name.startswith(part)}


RENAMED = {name.replace("val/", "validation/"): data for name, data in SPLITS.items()}
LAYOUTS = {
    "one class only": ({name: data for name, data in GOOD.items() if name[0] == "a"}, ("1 class (a)", "at least 2")),
    "an empty class folder": ({**GOOD, "c/": b""}, ("1 class folders are empty: c/", "Fill them, or remove")),
    "a class that is measured and never trained": (
        {**SPLITS, "val/c/1.png": png(61)},
        ("train lacks: c", "Give train images"),
    ),
    "splits and classes side by side": (
        {**SPLITS, "c/1.png": png(62)},
        ("are they splits or classes?", "otherwise rename"),
    ),
    "one split under two names": ({**SPLITS, **RENAMED}, ("name one split twice", "Keep one of them")),
    "too few images for a validation split": (
        {"a/1.png": png(1), "b/1.png": png(2)},
        ("2 images, too few", "Add some"),
    ),
    "no image at all": ({"readme.txt": b"soon"}, ("no image in a class folder", "<class>/<image>")),
}

FAULTS = [
    *(rejected(name, *bad) for name, bad in BAD.items()),
    Fault(
        "a class without one good image",
        Folder,
        lambda bench: bench.put("c/1.png", b""),
        "ingest",
        ("c/1.png: the file is empty", "ingest.max_bad"),
    ),
    *(
        Fault(name, Folder, lambda bench, images=images: bench.instead(images), "ingest", says)
        for name, (images, says) in LAYOUTS.items()
    ),
    Fault(
        "a name that is not UTF-8",
        Folder,
        lambda bench: named(bench, b"\xff\xfe.png"),
        "scan",
        ("things/a holds a file name that is not UTF-8: b'\\xff\\xfe.png'", "Rename it"),
    ),
    Fault(
        "a pipe among the images",
        Folder,
        lambda bench: os.mkfifo(bench.raw / "things/a/x.png"),
        "scan",
        ("a/x.png is no file", "Remove it"),
    ),
    Fault("a socket among the images", Folder, listening, "scan", ("a/x.png is no file", "Remove it")),
    Fault(
        "a link to a folder, in a loop",
        Folder,
        lambda bench: (bench.raw / "things/a/more").symlink_to(".."),
        "scan",
        ("a/more is a link to a folder", "Put the folder itself there"),
    ),
    Fault(
        "a link that leads nowhere",
        Folder,
        lambda bench: (bench.raw / "things/a/x.png").symlink_to("/none/x.png"),
        "scan",
        ("a/x.png is a link to '/none/x.png', which does not exist", "restore its target"),
    ),
    Fault(
        "an image that changes after the scan",
        Folder,
        lambda bench: between(bench, "changed"),
        "ingest",
        ("a/1.png", "has changed since it was scanned", "dvc repro"),
    ),
    Fault(
        "an image that goes after the scan",
        Folder,
        lambda bench: between(bench, "gone"),
        "ingest",
        ("a/1.png", "it is gone", "restore the file"),
    ),
    Fault(
        "a source that is not there",
        Folder,
        lambda bench: bench.source("elsewhere"),
        "scan",
        ("raw images of things are not at", "TUTELAGE_RAW"),
    ),
]
