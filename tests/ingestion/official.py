"""Official data sets in miniature: each function writes the archives as they are downloaded into a folder.

What lies in them is returned as a list of Truth, known from the making and not from any reader. Structure (names, nesting,
wrapping folders, pickle protocol, field names and shapes of .mat files) is that of the published files; images are few.
"""

import io
import itertools
import json
import struct
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from scipy.io import savemat

from stages.lib.ingestion.layout import Layout
from stages.lib.ingestion.listing import Entry
from tests.ingestion.raw_project import encoded, folder_of, picture


class Truth(NamedTuple):
    """One image of a set."""

    split: str
    label: int
    class_name: str
    data: bytes
    """The image file; for CIFAR, which stores pixels, a PNG of them."""


Opener = tuple[Callable[[str], bool], Callable[[str, BinaryIO], Iterator[tuple[str, bytes]]]]
"""(opens, inner) of a container reader."""


def expanded(source: Path, *openers: Opener) -> tuple[list[Entry], Callable[[Entry], bytes]]:
    """(every file, also inside archives, by path; text_of): a stand-in for `scan` and `ingest` that holds all in memory."""
    contents: dict[str, bytes] = {}
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        contents.update(_opened(str(file.relative_to(source)), file.read_bytes(), openers))
    entries = [Entry(member, len(data), "0", -1) for member, data in sorted(contents.items())]
    return entries, lambda entry: contents[entry.member]


def _opened(path: str, data: bytes, openers: Sequence[Opener]) -> Iterator[tuple[str, bytes]]:
    if path.endswith((".tar", ".tar.gz", ".tgz")):
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            for info in tar:
                if info.isreg():
                    yield from _opened(f"{path}/{info.name}", tar.extractfile(info).read(), openers)  # type: ignore[union-attr]
        return
    for opens, inner in openers:
        if opens(path):
            yield from ((f"{path}/{name}", payload) for name, payload in inner(path, io.BytesIO(data)))
            return
    yield path, data


def told(layout: Layout, text_of: Callable[[Entry], bytes]) -> list[Truth]:
    """What a layout says of each image, in an order that hangs on no name."""
    found = [Truth(one.split, one.label, layout.classes[one.label], text_of(one.entry)) for one in layout.images]
    return sorted(found)


def jpeg(seed: int, size: tuple[int, int] = (20, 14), **options: Any) -> bytes:
    return encoded(picture(seed, size), "JPEG", **options)


def tar_bytes(files: dict[str, bytes], mode: str = "w") -> bytes:
    """A tar, plain or `w:gz`; a name that ends in `/` is a folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, format=tarfile.GNU_FORMAT) as tar:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def mat_bytes(**variables: Any) -> bytes:
    """A compressed MATLAB 5 file, as MATLAB writes them."""
    buffer = io.BytesIO()
    savemat(buffer, variables, do_compression=True, oned_as="row")
    return buffer.getvalue()


def struct_array(rows: Sequence[dict[str, Any]], shape: tuple[int, int]) -> np.ndarray:
    """A MATLAB struct array of 1 x n or n x 1."""
    table = np.zeros(len(rows), dtype=[(field, object) for field in rows[0]])
    for place, row in enumerate(rows):
        table[place] = tuple(row.values())
    return table.reshape(shape)


# ImageNet


SYNSETS = (
    # ILSVRC2012_ID (made up; like the real ones not in the order of the wnids), wnid, words; two cranes, as in ImageNet
    (1, "n03126707", "crane"),
    (2, "n01440764", "tench, Tinca tinca"),
    (3, "n02119789", "kit fox, Vulpes macrotis"),
    (4, "n02012849", "crane"),
)
HIGH_LEVEL = ((5, "n00015388", "animal, animate being, beast"), (6, "n00001740", "entity"))
"""Inner nodes of the hierarchy come after the classes and have num_children > 0."""
IMAGENET_NAMES = {
    "n01440764": "tench", "n02012849": "crane (n02012849)", "n02119789": "kit fox", "n03126707": "crane (n03126707)",
}  # fmt: skip


def oddities() -> list[bytes]:
    """What ImageNet holds beside ordinary JPEGs: a PNG, a CMYK JPEG, an EXIF-turned JPEG, a grey JPEG; all named .JPEG."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return [
        encoded(picture(900), "PNG"),
        encoded(picture(901, mode="CMYK"), "JPEG"),
        encoded(picture(902), "JPEG", exif=exif),
        encoded(picture(903, mode="L"), "JPEG"),
    ]


def devkit_files(truth: Sequence[int]) -> dict[str, bytes]:
    """The devkit's files that matter, by their paths in the archive."""
    rows = [
        {
            "ILSVRC2012_ID": number, "WNID": wnid, "words": words, "gloss": f"what {words} means",
            "num_children": 0 if place < len(SYNSETS) else 2, "children": np.zeros((1, 2)) + 1,
            "wordnet_height": 0, "num_train_images": 1300,
        }
        for place, (number, wnid, words) in enumerate((*SYNSETS, *HIGH_LEVEL))
    ]  # fmt: skip
    return {
        "ILSVRC2012_devkit_t12/": b"",
        "ILSVRC2012_devkit_t12/readme.txt": b"This is the documentation of the ILSVRC2012 Development Kit.\n",
        "ILSVRC2012_devkit_t12/data/": b"",
        "ILSVRC2012_devkit_t12/data/meta.mat": mat_bytes(synsets=struct_array(rows, (len(rows), 1))),
        "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt": "".join(
            f"{one}\n" for one in truth
        ).encode(),
    }


def imagenet_images(
    per_class: int = 4, val_per_class: int = 2
) -> tuple[dict[str, list[bytes]], list[tuple[int, bytes]]]:
    """({wnid: training images}, [(ILSVRC2012_ID, validation image)]); odd ones among the first class's."""
    train = {
        wnid: [jpeg(100 * number + place) for place in range(per_class)]
        for number, wnid, _ in sorted(SYNSETS, key=lambda s: s[1])
    }
    first = next(iter(train))
    train[first] = [*oddities(), *train[first]][: max(per_class, 4)]
    numbers = [number for number, _, _ in SYNSETS] * val_per_class
    return train, [(number, jpeg(5000 + place)) for place, number in enumerate(numbers)]


def imagenet_truth(train: dict[str, list[bytes]], val: Iterable[tuple[int, bytes]]) -> list[Truth]:
    """Labels are places in the sorted wnids; IDs go through the devkit's synsets."""
    wnids = sorted(train)
    wnid_of = {number: wnid for number, wnid, _ in SYNSETS}
    pairs = [("train", wnid, data) for wnid, images in train.items() for data in images]
    pairs += [("val", wnid_of[number], data) for number, data in val]
    return sorted(Truth(split, wnids.index(wnid), IMAGENET_NAMES.get(wnid, wnid), data) for split, wnid, data in pairs)


def imagenet(folder: Path) -> list[Truth]:
    """ILSVRC2012_img_train.tar (of tars), ILSVRC2012_img_val.tar, ILSVRC2012_devkit_t12.tar.gz."""
    train, val = imagenet_images()
    tars = {
        f"{wnid}.tar": tar_bytes({f"{wnid}_{10026 + place}.JPEG": data for place, data in enumerate(images)})
        for wnid, images in train.items()
    }
    flat = {f"ILSVRC2012_val_{place:08d}.JPEG": data for place, (_, data) in enumerate(val, start=1)}
    folder_of(
        folder,
        {
            "ILSVRC2012_img_train.tar": tar_bytes(tars),
            "ILSVRC2012_img_val.tar": tar_bytes(flat),
            "ILSVRC2012_devkit_t12.tar.gz": tar_bytes(devkit_files([number for number, _ in val]), "w:gz"),
        },
    )
    return imagenet_truth(train, val)


# CIFAR


def python2_pickle(content: Any) -> bytes:
    """Protocol 2 as Python 2's cPickle wrote the batches: byte strings, memoized; arrays as NumPy 1.x reduced them."""
    places = itertools.count(1)

    def put() -> bytes:
        place = next(places)
        return b"q" + bytes([place]) if place < 256 else b"r" + struct.pack("<I", place)

    def text(data: bytes) -> bytes:
        return (b"U" + bytes([len(data)]) if len(data) < 256 else b"T" + struct.pack("<i", len(data))) + data + put()

    def number(value: int) -> bytes:
        if 0 <= value < 256:
            return b"K" + bytes([value])
        return b"M" + struct.pack("<H", value) if 0 <= value < 65536 else b"J" + struct.pack("<i", value)

    def array(value: np.ndarray) -> bytes:
        shape = b"(" + b"".join(map(number, value.shape)) + b"t" + put()
        kind = value.dtype.str[1:].encode()
        dtype = b"cnumpy\ndtype\n" + put() + text(kind) + b"K\x00K\x01\x87" + put() + b"R" + put()
        dtype += b"(K\x03U\x01|" + put() + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t" + put() + b"b"
        made = b"cnumpy.core.multiarray\n_reconstruct\n" + put() + b"cnumpy\nndarray\n" + put()
        made += b"K\x00\x85" + put() + text(b"b") + b"\x87" + put() + b"R" + put()
        return made + b"(K\x01" + shape + dtype + b"\x89" + text(value.tobytes()) + b"t" + put() + b"b"

    def one(value: Any) -> bytes:
        if isinstance(value, dict):
            return b"}" + put() + b"(" + b"".join(one(key) + one(item) for key, item in value.items()) + b"u"
        if isinstance(value, list):
            return b"]" + put() + b"(" + b"".join(map(one, value)) + b"e"
        if isinstance(value, np.ndarray):
            return array(value)
        return text(value.encode("latin-1")) if isinstance(value, str) else number(value)

    return b"\x80\x02" + one(content) + b"."


def _batch(seed: int, labels: Sequence[int]) -> tuple[np.ndarray, list[bytes]]:
    """(u8[n, 3072] as CIFAR stores it, PNGs of the same pixels)."""
    images = [picture(seed + place, (32, 32)) for place in range(len(labels))]
    rows = [np.asarray(image).transpose(2, 0, 1).reshape(-1) for image in images]
    return np.stack(rows), [encoded(image) for image in images]


CIFAR10_NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def cifar10(folder: Path, per_batch: int = 20) -> list[Truth]:
    """cifar-10-python.tar.gz: five training batches, one test batch, batches.meta, readme.html."""
    files: dict[str, bytes] = {"cifar-10-batches-py/": b""}
    truth: list[Truth] = []
    names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
    for number, name in enumerate(names):
        labels = [place % 10 for place in range(per_batch)]
        data, images = _batch(1000 * number, labels)
        which = f"training batch {number + 1} of 5" if number < 5 else "testing batch 1 of 1"
        content = {
            "batch_label": which, "labels": labels, "data": data,
            "filenames": [f"{CIFAR10_NAMES[label]}_s_{place:06d}.png" for place, label in enumerate(labels)],
        }  # fmt: skip
        files[f"cifar-10-batches-py/{name}"] = python2_pickle(content)
        split = "train" if number < 5 else "test"
        truth += [Truth(split, label, CIFAR10_NAMES[label], image) for label, image in zip(labels, images, strict=True)]
    meta = {"num_cases_per_batch": 10000, "label_names": CIFAR10_NAMES, "num_vis": 3072}
    files["cifar-10-batches-py/batches.meta"] = python2_pickle(meta)
    files["cifar-10-batches-py/readme.html"] = b"<meta HTTP-EQUIV='REFRESH'>\n"
    folder_of(folder, {"cifar-10-python.tar.gz": tar_bytes(files, "w:gz")})
    return sorted(truth)


def cifar100(folder: Path, per_class: int = 2) -> list[Truth]:
    """cifar-100-python.tar.gz: train, test, meta, file.txt~; coarse labels beside the fine ones, and different."""
    fine_names = [f"class number {label}" for label in range(100)]
    files: dict[str, bytes] = {"cifar-100-python/": b"", "cifar-100-python/file.txt~": b""}
    truth: list[Truth] = []
    for number, split in enumerate(("train", "test")):
        labels = [label for label in range(100) for _ in range(per_class)]
        data, images = _batch(20_000 * (number + 1), labels)
        content = {
            "filenames": [f"picture_s_{place:06d}.png" for place in range(len(labels))],
            "batch_label": f"{split}ing batch 1 of 1", "fine_labels": labels,
            "coarse_labels": [label % 20 for label in labels], "data": data,
        }  # fmt: skip
        files[f"cifar-100-python/{split}"] = python2_pickle(content)
        truth += [Truth(split, label, fine_names[label], image) for label, image in zip(labels, images, strict=True)]
    meta = {"fine_label_names": fine_names, "coarse_label_names": [f"coarse {label}" for label in range(20)]}
    files["cifar-100-python/meta"] = python2_pickle(meta)
    folder_of(folder, {"cifar-100-python.tar.gz": tar_bytes(files, "w:gz")})
    return sorted(truth)


# Flowers-102


FLOWERS = ("pink primrose", "hard-leaved pocket orchid", "canterbury bells")


def flowers(folder: Path) -> list[Truth]:
    """102flowers.tgz, imagelabels.mat, setid.mat; trnid and valid hold 2 images a class, tstid 3, mixed as in the original."""
    order = np.random.default_rng(5).permutation(3 * 7)
    labels = 1 + order % 3
    parts: dict[str, list[int]] = {"trnid": [], "valid": [], "tstid": []}
    room = {"trnid": 2, "valid": 2, "tstid": 3}
    for label in range(1, 4):
        numbers = [int(number) for number in 1 + np.flatnonzero(labels == label)]
        for part, many in room.items():
            parts[part] += [numbers.pop() for _ in range(many)]
    images = {number: jpeg(30_000 + number) for number in range(1, 22)}
    tar = {"jpg/": b"", **{f"jpg/image_{number:05d}.jpg": data for number, data in images.items()}}
    folder_of(
        folder,
        {
            "102flowers.tgz": tar_bytes(tar, "w:gz"),
            "imagelabels.mat": mat_bytes(labels=labels.astype(np.uint8)),
            "setid.mat": mat_bytes(**{part: np.array(numbers, np.uint16) for part, numbers in parts.items()}),
        },
    )
    split_of = {"trnid": "train", "valid": "train", "tstid": "test"}
    return sorted(
        Truth(split_of[part], int(labels[number - 1]) - 1, FLOWERS[labels[number - 1] - 1], images[number])
        for part, numbers in parts.items()
        for number in numbers
    )


# Stanford Cars


CARS = ("AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Ram C/V Cargo Van Minivan 2012")


def _annotations(labels: dict[str, int], with_class: bool = True) -> bytes:
    box = {"bbox_x1": 39, "bbox_y1": 116, "bbox_x2": 569, "bbox_y2": 375}
    rows = [box | ({"class": label + 1} if with_class else {}) | {"fname": name} for name, label in labels.items()]
    return mat_bytes(annotations=struct_array(rows, (1, len(rows))))


def cars(folder: Path, per_class: int = 3) -> list[Truth]:
    """cars_train.tgz, cars_test.tgz, car_devkit.tgz, cars_test_annos_withlabels.mat."""
    files: dict[str, bytes] = {}
    labels: dict[str, dict[str, int]] = {}
    truth: list[Truth] = []
    for start, part in ((40_000, "train"), (41_000, "test")):
        images = {f"{place + 1:05d}.jpg": jpeg(start + place) for place in range(3 * per_class)}
        labels[part] = {name: place % 3 for place, name in enumerate(images)}
        tar = {f"cars_{part}/": b"", **{f"cars_{part}/{name}": data for name, data in images.items()}}
        files[f"cars_{part}.tgz"] = tar_bytes(tar, "w:gz")
        truth += [Truth(part, labels[part][name], CARS[labels[part][name]], data) for name, data in images.items()]
    names = np.empty((1, 3), object)
    names[0] = CARS
    devkit = {
        "devkit/": b"",
        "devkit/README.txt": b"This file gives documentation for the cars 196 dataset.\n",
        "devkit/cars_meta.mat": mat_bytes(class_names=names),
        "devkit/cars_train_annos.mat": _annotations(labels["train"]),
        "devkit/cars_test_annos.mat": _annotations(labels["test"], with_class=False),
    }
    files["car_devkit.tgz"] = tar_bytes(devkit, "w:gz")
    files["cars_test_annos_withlabels.mat"] = _annotations(labels["test"])
    folder_of(folder, files)
    return sorted(truth)


# iNaturalist


INAT = {5: "Corvus corax", 2: "Amanita muscaria", 9: "Rana temporaria"}
"""Category id -> name, in the order in which the training annotations first name them: not that of the ids."""


def inaturalist(folder: Path, year: int = 2018, per_class: int = 3) -> list[Truth]:
    """train_val<year>.tar.gz, train<year>.json.tar.gz, val<year>.json.tar.gz, categories.json.tar.gz."""
    images: dict[str, bytes] = {f"train_val{year}/": b""}
    files: dict[str, bytes] = {}
    truth: list[Truth] = []
    for start, split in ((0, "train"), (50, "val")):
        order = [category for _ in range(per_class) for category in INAT]
        rows, annotations = [], []
        for place, category in enumerate(order):
            name = f"train_val{year}/Aves/{category}/{start + place:032x}.jpg"
            images[name] = jpeg(50_000 + start + place)
            rows.append(
                {
                    "license": 3,
                    "file_name": name,
                    "rights_holder": "Nobody",
                    "height": 14,
                    "width": 20,
                    "id": start + place,
                }
            )
            annotations.append({"image_id": start + place, "category_id": category, "id": start + place})
            truth.append(Truth(split, list(INAT).index(category), INAT[category], images[name]))
        content = {
            "info": {"year": year}, "images": rows[::-1], "licenses": [{"id": 3, "name": "CC", "url": ""}],
            "annotations": annotations, "categories": [{"id": one, "name": f"{one:08x}"} for one in sorted(INAT)],
        }  # fmt: skip
        files[f"{split}{year}.json.tar.gz"] = tar_bytes({f"{split}{year}.json": json.dumps(content).encode()}, "w:gz")
    names = [{"id": one, "name": INAT[one], "kingdom": "Animalia", "supercategory": "Aves"} for one in sorted(INAT)]
    files["categories.json.tar.gz"] = tar_bytes({"categories.json": json.dumps(names).encode()}, "w:gz")
    files[f"train_val{year}.tar.gz"] = tar_bytes(images, "w:gz")
    folder_of(folder, files)
    return sorted(truth)


# The hub's parquet files


HUB = ("tench", "goldfish", "great white shark")


def parquet_bytes(
    rows: Sequence[tuple[bytes | None, str | None, int | None]], names: Sequence[str] = HUB, **columns: str
) -> bytes:
    """A data set's parquet file as the hub's library writes it: rows of (image bytes, path, label), two row groups or more."""
    image, label = columns.get("image", "image"), columns.get("label", "label")
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    features = {image: {"_type": "Image"}, label: {"names": list(names), "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if names else {}
    table = pa.Table.from_arrays(
        [
            pa.array([{"bytes": data, "path": path} for data, path, _ in rows], kind),
            pa.array([number for _, _, number in rows], pa.int64()),
        ],
        schema=pa.schema([(image, kind), (label, pa.int64())], metadata=metadata),
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=max(1, len(rows) // 2))
    return buffer.getvalue()


def hub(folder: Path, per_class: int = 4) -> list[Truth]:
    """data/train-0000x-of-00002.parquet, data/validation-..., data/test-... whose images have no label (-1), as ImageNet's."""
    files: dict[str, bytes] = {}
    truth: list[Truth] = []
    parts = (("train-00000-of-00002", "train"), ("train-00001-of-00002", "train"), ("validation-00000-of-00001", "val"))
    for number, (name, split) in enumerate(parts):
        labels = [place % 3 for place in range(3 * per_class)]
        data = [jpeg(60_000 + 1000 * number + place) for place in range(len(labels))]
        rows = [
            (image, f"n0144000{label}_{place}.JPEG", label)
            for place, (image, label) in enumerate(zip(data, labels, strict=True))
        ]
        files[f"data/{name}.parquet"] = parquet_bytes(rows)
        truth += [Truth(split, label, HUB[label], image) for image, label in zip(data, labels, strict=True)]
    hidden = [(jpeg(65_000 + place), f"ILSVRC2012_test_{place:08d}.JPEG", -1) for place in range(5)]
    files["data/test-00000-of-00001.parquet"] = parquet_bytes(hidden)
    files["README.md"] = b"---\nlicense: other\n---\n"
    folder_of(folder, files)
    return sorted(truth)


# WebDataset


WDS = ("ant", "bee", "cat")


def webdataset_tars(folder: Path, info: bool = True, names: bool = True, per_class: int = 4) -> list[Truth]:
    """things-train-00000x.tar and things-validation-000000.tar with .jpg, .cls and perhaps .json, and perhaps _info.json."""
    files: dict[str, bytes] = {}
    truth: list[Truth] = []
    splits: dict[str, Any] = {}
    parts = (
        ("things-train-000000.tar", "train"),
        ("things-train-000001.tar", "train"),
        ("things-validation-000000.tar", "val"),
    )
    for number, (name, split) in enumerate(parts):
        members: dict[str, bytes] = {}
        for place in range(3 * per_class):
            label, data = place % 3, jpeg(70_000 + 1000 * number + place)
            members |= {f"sample/{place:06d}.jpg": data, f"sample/{place:06d}.cls": str(label).encode()}
            if names:
                members[f"sample/{place:06d}.json"] = json.dumps({"label": label, "class_name": WDS[label]}).encode()
            truth.append(Truth(split, label, WDS[label] if names else str(label), data))
        files[name] = tar_bytes(members)
        one = splits.setdefault(split, {"name": split, "num_samples": 0, "filenames": [], "shard_lengths": []})
        one["num_samples"] += 3 * per_class
        one["filenames"].append(name)
        one["shard_lengths"].append(3 * per_class)
    if info:
        files["_info.json"] = json.dumps({"splits": splits}).encode()
    folder_of(folder, files)
    return sorted(truth)
