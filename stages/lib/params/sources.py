"""`sources`: where each image set comes from."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, RootModel, StringConstraints, model_validator

from stages.lib.params.credentials import without
from stages.lib.params.frozen import Frozen

SetName = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=40),
    Field(description="a name of lower-case letters, digits and hyphens, at most 40"),
]


class Source(Frozen):
    """One raw image set, read in place and never changed."""

    layout: Literal[
        "folder",
        "tiny-imagenet",
        "imagenet",
        "cifar",
        "flowers-102",
        "stanford-cars",
        "inaturalist",
        "hub",
        "webdataset",
    ]
    """folder: <class>/* or <split>/<class>/*. tiny-imagenet: wnids.txt, words.txt, train/<wnid>/images/*, val/images/*
    with val_annotations.txt. Each as a folder or inside one .tar or .tar.gz. The others: the files as their publishers
    give them, archives unopened (docs/formats.md has a table)."""
    path: Annotated[str, StringConstraints(min_length=1), AfterValidator(without)]
    """A folder, an archive, or s3://bucket/prefix; a relative path starts at the raw root ($TUTELAGE_RAW, else data/raw)."""
    embedded: Literal["digits-0-6", "digits-7-9"] | None = None
    """Write scikit-learn's bundled handwritten digits of these classes to `path` first, where nothing is there yet."""


class Sources(RootModel[dict[SetName, Source]]):
    """Set name -> source; the name appears in file names and DVC stage names."""

    root: Annotated[dict[SetName, Source], Field(min_length=1)]

    @model_validator(mode="after")
    def nameable(self) -> Self:
        """`available` is a word of the scan stage's command line."""
        if "available" in self.root:
            raise ValueError(
                "a set cannot be called `available`: `python -m stages.scan available` means something else"
            )
        return self
