"""`data`: how many of the main set's images train anything. What "data-efficient" is measured by."""

from typing import Literal

from stages.lib.params.frozen import Frozen


class Data(Frozen):
    """The same images for teacher, masked autoencoder, student and fine-tuning. Validation and evaluation see whole splits."""

    subset: Literal[1, 5, 10, 25, 50, 100]
    """Percent of each class's training images, rounded up, at least one; the images of a smaller percentage are among those of
    a larger one. 100: all of them. Transfer sets are never cut."""
