"""Faults in shards and their index, found by the gate behind `shard`, and by whoever trains on them without one."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from stages import validate
from stages.lib.data.index import read_index
from stages.lib.data.shards import ShardReader
from stages.lib.ingestion import index_writer
from tests import fabricated
from tests.faults.fault import Bench, Fault, cut, files, flip
from tests.ingestion.raw_project import ROOT

FOLDER, INDEX, INFO = Path("data/shards/toy"), Path("data/index/toy.parquet"), Path("data/shards/toy/_info.json")
BEE = "val/bee/002"


class Shards(Bench):
    """36 images in three tars, their index and their manifest."""

    kind = "shards and index"

    def lay(self) -> None:
        """The set and the gates' limits."""
        shutil.copytree(ROOT / "data/expectations", "data/expectations")
        self.rows, self.listed = fabricated.write_set(Path("data"))

    def place(self, key: str = BEE) -> Any:
        """The index's row of an image."""
        return self.rows.set_index("key").loc[key]

    def tar(self, key: str = BEE) -> Path:
        """The shard it lies in."""
        return FOLDER / self.place(key)["shard"]

    def change(self, **values: Any) -> None:
        """Set cells of BEE's row in the index."""
        at = self.rows.index[self.rows["key"] == BEE][0]
        for column, value in values.items():
            self.rows.loc[at, column] = value
        self.write()

    def write(self) -> None:
        """Write the index, as shard would."""
        fabricated.write_index(Path("data"), self.rows, self.listed)

    def look(self) -> None:
        """The gate."""
        self.where = "validate-shards"
        validate.validate("shards", "toy")

    def inputs(self) -> dict[str, bytes]:
        """Everything the gate reads."""
        return files(*(Path("data") / name for name in ("manifest", "index", "shards", "expectations")))

    def kept(self) -> str:
        """The gate is shut."""
        assert not Path("data/gates/shards-toy.json").exists()
        return super().kept()


class Training(Shards):
    """The same, read image by image as training does, which looks at no gate."""

    kind = "shards in training"

    def lay(self) -> None:
        """Also with the index as the product writes it."""
        super().lay()
        self.write()

    def write(self) -> None:
        """Through its own writer, which adds checksums."""
        names = index_writer.SCHEMA.names
        places = [index_writer.Place(*(row[name] for name in names)) for row in self.rows.to_dict("records")]
        index_writer.write(INDEX, places, fabricated.CLASSES, self.listed)

    def look(self) -> None:
        """Both splits, whole."""
        self.where = "training"
        for split in ("train", "val"):
            index = read_index(INDEX, split)
            reader = ShardReader(index, FOLDER)
            assert len(index.keys) == len(index)
            for image in range(len(index)):
                assert len(reader.read(image)) == index.size[image]

    def kept(self) -> str:
        """Nothing is written here."""
        return Bench.kept(self)


REPAIR = ("python -m stages.shard --repair toy", "data/expectations/shards.json")
PLACE = f"key '{BEE}', shard 'toy-val-000000.tar', offset"


def image_byte(bench: Shards) -> None:
    """In the middle of an image."""
    place = bench.place()
    flip(bench.tar(), place["offset"] + place["size"] // 2)


def label_byte(bench: Shards) -> None:
    """The .cls member says another class; the image is whole."""
    flip(bench.tar(), bench.tar().read_bytes().index(f"{BEE}.cls".encode()) + 512)


def header_byte(bench: Shards) -> None:
    """The image's name: other readers see another key, or stop."""
    flip(bench.tar(), bench.tar().read_bytes().index(f"{BEE}.png".encode()) + 4)


def exchanged(_: Shards) -> None:
    """Two shards under each other's names."""
    one, two = sorted(FOLDER.glob("*train*.tar"))[:2]
    held = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(held)


def rebuilt(bench: Shards) -> None:
    """The index of a build with another order of the same images, whose shards are not there."""
    shards = files(FOLDER)
    other = fabricated.manifest().sample(frac=1, random_state=1)
    rows, listed = fabricated.write_shards(Path("data"), other, "other")
    shutil.rmtree("data/shards/other")
    named = {name: name.replace("other-", "toy-") for name in listed}
    bench.rows = rows.assign(shard=rows["shard"].map(named))
    bench.listed = {named[name]: about for name, about in listed.items()}
    assert files(FOLDER) == shards
    bench.write()


def doubled(bench: Shards) -> None:
    """An image is in its tar twice."""
    path, data = bench.tar(), bench.tar().read_bytes()
    at = data.index(f"{BEE}.png".encode())
    sample = data[at : at + 512 + -(-bench.place()["size"] // 512) * 512]
    path.write_bytes(data[:at] + sample + data[at:])


def missing_row(bench: Shards) -> None:
    """The index does not know an image."""
    bench.rows = bench.rows[bench.rows["key"] != BEE]
    bench.write()


def doubled_row(bench: Shards) -> None:
    """The index knows it twice."""
    bench.rows = pd.concat([bench.rows, bench.rows[bench.rows["key"] == BEE]])
    bench.write()


def scattered(bench: Shards) -> None:
    """The rows of a split do not stand together."""
    bench.rows = bench.rows.sample(frac=1, random_state=0)
    bench.write()


def other_manifest(**cells: Any) -> Callable[[Shards], None]:
    """The manifest says something else about an image."""

    def plant(_: Shards) -> None:
        table = fabricated.manifest()
        for column, value in cells.items():
            table.loc[table["key"] == BEE, column] = value
        fabricated.write_manifest(Path("data"), table)

    return plant


def info(change: Callable[[dict[str, Any]], Any]) -> None:
    """Edit _info.json."""
    content = json.loads(INFO.read_text())
    change(content["splits"])
    INFO.write_text(json.dumps(content))


def bare(path: Path) -> None:
    """A parquet file without its metadata."""
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)


def gate(name: str, plant: Callable[[Any], object], *says: str, do: tuple[str, ...] = REPAIR) -> Fault:
    """Found by the gate."""
    return Fault(name, Shards, plant, "validate-shards", (*says, *do))


def training(name: str, plant: Callable[[Any], object], *says: str) -> Fault:
    """Found by training, where nobody asked a gate."""
    return Fault(name, Training, plant, "training", says)


LOST, AGAIN = (), "dvc checkout"
FAULTS = [
    gate("a flipped byte in an image", image_byte, PLACE, "to the last bit"),
    gate("a flipped byte in a label", label_byte, PLACE, "the label that other readers see"),
    gate("a flipped byte in a member's name", header_byte, "toy-val-000000.tar", "val/bee"),
    gate(
        "a flipped byte behind the last image",
        lambda bench: flip(bench.tar(), -1),
        "shard 'toy-val-000000.tar'",
        "sha256",
    ),
    gate(
        "a shard cut in its first header",
        lambda bench: cut(bench.tar(), 100),
        "shard 'toy-val-000000.tar'",
        "The file is as long",
    ),
    gate(
        "a shard cut inside an image",
        lambda bench: cut(bench.tar(), int(bench.place()["offset"]) + 10),
        PLACE,
        "loses images",
    ),
    gate(
        "a shard without its last byte",
        lambda bench: cut(bench.tar(), -1),
        "shard 'toy-val-000000.tar'",
        "The file is as long",
    ),
    gate(
        "a shard of zero bytes", lambda bench: cut(bench.tar(), 0), "shard 'toy-val-000000.tar'", "The file is as long"
    ),
    gate("a shard that is gone", lambda bench: bench.tar().unlink(), "shard 'toy-val-000000.tar'", "No such file"),
    gate(
        "a folder in a shard's place",
        lambda bench: (bench.tar().unlink(), bench.tar().mkdir()),
        "shard 'toy-val-000000.tar'",
        "Is a directory",
    ),
    gate(
        "a shard the index does not know",
        lambda bench: shutil.copy(bench.tar(), FOLDER / "toy-val-000009.tar"),
        "toy-val-000009.tar",
        "the index does not know",
    ),
    gate("two shards under each other's names", exchanged, "toy-train-000000.tar", "toy-train-000001.tar"),
    gate("an image twice in its shard", doubled, "val/bee/002", "times_in_shards 2"),
    gate("_info.json is gone", lambda _: INFO.unlink(), "_info.json, which timm trusts"),
    gate("_info.json cut off", lambda _: cut(INFO, 40), "_info.json, which timm trusts"),
    gate(
        "_info.json with another length",
        lambda _: info(lambda splits: splits["val"].update(num_samples=11)),
        "_info.json, which timm trusts",
        "split 'val'",
    ),
    gate(
        "_info.json of another kind",
        lambda _: INFO.write_text('{"splits": {"val": {"name": "val"}}}'),
        "_info.json, which timm trusts",
    ),
    gate("_info.json that is a list", lambda _: INFO.write_text("[]"), "_info.json, which timm trusts"),
    gate("an index row missing", missing_row, PLACE, "exactly once in an epoch"),
    gate("an index row twice", doubled_row, PLACE, "exactly once in an epoch"),
    gate("an index row with another label", lambda bench: bench.change(label=0), PLACE, "keeps its label"),
    gate("an index row with another split", lambda bench: bench.change(split="train"), BEE, "stays in its split"),
    gate(
        "an index row 512 bytes off",
        lambda bench: bench.change(offset=bench.place()["offset"] + 512),
        BEE,
        "to the last bit",
    ),
    gate("an index row with a negative offset", lambda bench: bench.change(offset=-5), BEE, "to the last bit"),
    gate("an index row of another length", lambda bench: bench.change(size=5), PLACE, "as they came"),
    gate("an index row with another sha256", lambda bench: bench.change(sha256="0" * 64), PLACE, "to the last bit"),
    gate(
        "an index row in a shard there is not",
        lambda bench: bench.change(shard="toy-val-000007.tar"),
        "toy-val-000007.tar",
    ),
    gate("the index of another build", rebuilt, "shard 'toy-train-000000.tar'", "The file is what was written"),
    gate("a manifest with another label", other_manifest(label=0), PLACE, "keeps its label"),
    gate(
        "a manifest with another image", other_manifest(stored_sha256="0" * 64, stored_bytes=1), PLACE, "as they came"
    ),
    gate("an index cut off", lambda _: cut(INDEX, -50), str(INDEX), do=(AGAIN,)),
    gate("an index without its metadata", lambda _: bare(INDEX), str(INDEX), do=(AGAIN,)),
    gate("an index that is gone", lambda _: INDEX.unlink(), f"There is no {INDEX}", do=("dvc repro",)),
    training(
        "a shard cut inside an image",
        lambda bench: cut(bench.tar(), int(bench.place()["offset"]) + 10),
        "toy-val-000000.tar is cut off",
        BEE,
        "at offset",
        AGAIN,
    ),
    training(
        "a shard that is gone", lambda bench: bench.tar().unlink(), "There is no shard", "toy-val-000000.tar", AGAIN
    ),
    training("an index cut off", lambda _: cut(INDEX, -50), str(INDEX), AGAIN),
    training("an index of zero bytes", lambda _: cut(INDEX, 0), str(INDEX), AGAIN),
    training("a flipped byte in a column of an index", lambda _: flip(INDEX, 200), str(INDEX), AGAIN),
    training("an index without its metadata", lambda _: bare(INDEX), str(INDEX), AGAIN),
    training(
        "an index without a column",
        lambda _: pq.write_table(pq.read_table(INDEX).drop_columns(["label"]), INDEX),
        str(INDEX),
        AGAIN,
    ),
    training("an index whose splits are mixed", scattered, str(INDEX), AGAIN),
    training(
        "an index row in a shard there is not",
        lambda bench: bench.change(shard="toy-val-000007.tar"),
        "toy-val-000007.tar",
        AGAIN,
    ),
    training(
        "a split that an index has not",
        lambda bench: (bench.rows.drop(bench.rows.index[bench.rows["split"] == "val"], inplace=True), bench.write()),
        "no split 'val', only train",
    ),
    training("an index that is gone", lambda _: INDEX.unlink(), "There is no index", "dvc pull"),
]
