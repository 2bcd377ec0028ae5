"""Layout `flowers-102`: Oxford's 102 flowers, 102flowers.tgz (or jpg/ unpacked) with imagelabels.mat and setid.mat.

setid.mat's trnid (1,020 images) and valid (1,020) make train, tstid (6,149) makes test, as in the papers that report on
this set; trnid is the small part, though others have exchanged it with tstid. Labels are those of imagelabels.mat less 1.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np

from stages.lib.core.outcome import Refusal
from stages.lib.ingestion import matlab, official
from stages.lib.ingestion.layout import Image, Layout, some
from stages.lib.ingestion.listing import Entry
from stages.lib.ingestion.official import Needed

LABELS, SPLITS = "imagelabels.mat", "setid.mat"
TEXTS = (LABELS, SPLITS)
PARTS = {"trnid": "train", "valid": "train", "tstid": "test"}
"""Variable of setid.mat -> split."""
HOST = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"
NEEDED = (
    Needed(
        "102flowers.tgz", 344_862_509, "52808999861908f626f3c1f4e79d11fa",
        "the images; unpacked: jpg/*.jpg", f"{HOST}102flowers.tgz",
    ),
    Needed(LABELS, 502, "e0620be6f572b9609742df49c70aed4d", "the labels", f"{HOST}{LABELS}"),
    Needed(SPLITS, 14_989, "a5357ecc9cb78c4bef273ce3793fc85c", "the splits", f"{HOST}{SPLITS}"),
)  # fmt: skip

IMAGE = re.compile(r"(?:^|/)(image_(\d{5})\.jpg)$")

NAMES = (
    "pink primrose", "hard-leaved pocket orchid", "canterbury bells", "sweet pea", "english marigold", "tiger lily",
    "moon orchid", "bird of paradise", "monkshood", "globe thistle", "snapdragon", "colt's foot", "king protea",
    "spear thistle", "yellow iris", "globe-flower", "purple coneflower", "peruvian lily", "balloon flower",
    "giant white arum lily", "fire lily", "pincushion flower", "fritillary", "red ginger", "grape hyacinth",
    "corn poppy", "prince of wales feathers", "stemless gentian", "artichoke", "sweet william", "carnation",
    "garden phlox", "love in the mist", "mexican aster", "alpine sea holly", "ruby-lipped cattleya", "cape flower",
    "great masterwort", "siam tulip", "lenten rose", "barbeton daisy", "daffodil", "sword lily", "poinsettia",
    "bolero deep blue", "wallflower", "marigold", "buttercup", "oxeye daisy", "common dandelion", "petunia",
    "wild pansy", "primula", "sunflower", "pelargonium", "bishop of llandaff", "gaura", "geranium", "orange dahlia",
    "pink-yellow dahlia", "cautleya spicata", "japanese anemone", "black-eyed susan", "silverbush",
    "californian poppy", "osteospermum", "spring crocus", "bearded iris", "windflower", "tree poppy", "gazania",
    "azalea", "water lily", "rose", "thorn apple", "morning glory", "passion flower", "lotus", "toad lily",
    "anthurium", "frangipani", "clematis", "hibiscus", "columbine", "desert-rose", "tree mallow", "magnolia",
    "cyclamen", "watercress", "canna lily", "hippeastrum", "bee balm", "ball moss", "foxglove", "bougainvillea",
    "camellia", "mallow", "mexican petunia", "bromelia", "blanket flower", "trumpet creeper", "blackberry lily",
)  # fmt: skip
"""Index = label. The archives hold no names; these are the published ones in the order of the labels."""


def read(entries: Sequence[Entry], text_of: Callable[[Entry], bytes]) -> Layout:
    """Raises Refusal where a file is missing, or images, labels and splits do not fit each other."""
    files = {entry.member.rpartition("/")[2]: entry for entry in entries}
    found = _images(entries)
    if not found or LABELS not in files or SPLITS not in files:
        present = {entry.member: entry.bytes for entry in entries}
        lost = official.missing(NEEDED, present)
        raise Refusal(f"Layout `flowers-102` needs the images, imagelabels.mat and setid.mat:\n{lost}")
    labels = matlab.numbers(text_of(files[LABELS]), files[LABELS].member, "labels") - 1
    if not len(labels) or labels.min() < 0 or labels.max() >= len(NAMES):
        raise Refusal(f"{files[LABELS].member} has labels outside 1 to {len(NAMES)}. Get it again.")
    split_of = _splits(text_of(files[SPLITS]), files[SPLITS].member, len(labels))
    lost_images = sorted(set(split_of) - set(found))
    if lost_images:
        names = [f"image_{number:05d}.jpg" for number in lost_images]
        raise Refusal(
            f"setid.mat names {len(names)} images that are not there: {some(names)}. Get 102flowers.tgz again."
        )
    images = [
        Image(f"image_{number:05d}.jpg", split, int(labels[number - 1]), found[number])
        for number, split in sorted(split_of.items())
    ]
    others = sum(not entry.is_folder for entry in entries) - len(images) - len(TEXTS)
    classes = NAMES[: 1 + max(image.label for image in images)]
    return Layout(classes, images, [], [f"{others} files that setid.mat puts in no split"] if others else [])


def _images(entries: Sequence[Entry]) -> dict[int, Entry]:
    """Image number -> entry. Raises Refusal where one is there twice."""
    found: dict[int, Entry] = {}
    for entry in entries:
        match = IMAGE.search(entry.member)
        if match and found.setdefault(int(match[2]), entry) is not entry:
            both = f"{found[int(match[2])].member} and {entry.member}"
            raise Refusal(f"{match[1]} is there twice: {both}. Keep the archive or the unpacked folder.")
    return found


def _splits(data: bytes, member: str, most: int) -> dict[int, str]:
    """Image number -> split. Raises Refusal where a number is in two parts or has no label."""
    split_of: dict[int, str] = {}
    for part, split in PARTS.items():
        numbers = matlab.numbers(data, member, part)
        if ((numbers < 1) | (numbers > most)).any():
            raise Refusal(f"{member}: `{part}` names images outside 1 to {most}, the number of labels. Get both again.")
        again = sorted(set(numbers.tolist()) & set(split_of))
        if again or len(np.unique(numbers)) < len(numbers):
            raise Refusal(f"{member}: `{part}` names images that already have a part: {again[:5]}. Get it again.")
        split_of |= dict.fromkeys(numbers.tolist(), split)
    return split_of
