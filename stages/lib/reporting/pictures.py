"""Samples as PNGs inside the page."""

from stages.lib.reporting import markup
from stages.lib.reporting.inputs import Folder

SMALL = 640  # pixels; a narrower picture is enlarged, its pixels kept as squares


def picture(folder: Folder, name: str, caption: str, alternative: str, wide: int = SMALL) -> str:
    """samples/<name>.png with its caption, or a sentence that it is not there; a small one is enlarged up to `wide` pixels."""
    image = folder.picture(name)
    if image is None:
        return markup.missing(folder.label(f"samples/{name}.png"))
    times = max(1, wide // image.width)
    tag = (
        f'<img src="{image.address}" width="{image.width * times}" height="{image.height * times}"'
        f'{" class=small" if times > 1 else ""} alt="{markup.text(alternative)}">'
    )
    return markup.figure(tag, caption, image.file)
