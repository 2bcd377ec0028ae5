"""What shards hold of an image: its own bytes, or a PNG of its pixels where readers of shards would not find it."""

import io

from PIL import Image

from stages.lib.data.decode import decode
from stages.lib.data.endings import ENDINGS


def stored(original: bytes, kind: str) -> tuple[bytes, str]:
    """(bytes to store, their ending) of an image in Pillow's format `kind`."""
    if kind in ENDINGS:
        return original, ENDINGS[kind]
    picture: Image.Image = decode(original)
    with io.BytesIO() as file:
        picture.save(file, format="PNG")
        return file.getvalue(), "png"
