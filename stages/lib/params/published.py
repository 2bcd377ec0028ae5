"""`shard.published_uri`: where shards lie that are not here. A place, not a content: no stage declares it."""

from typing import Annotated

from pydantic import BeforeValidator, Field, RootModel, StringConstraints

from stages.lib.params.credentials import without

S3Uri = Annotated[
    str,
    BeforeValidator(
        lambda value: without(value) if isinstance(value, str) else value
    ),  # before the pattern's words repeat it
    StringConstraints(pattern=r"^s3://[a-z0-9][a-z0-9.-]+(/.*)?$"),
    Field(description="an address such as s3://bucket/prefix"),
]


class PublishedUri(RootModel[S3Uri | None]):
    """null: every shard is on this machine."""

    root: S3Uri | None
