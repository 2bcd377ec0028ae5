"""Objects on S3 and whatever speaks like it."""


def is_remote(uri: str) -> bool:
    """Whether a path of params.yaml means an object store."""
    return uri.startswith("s3://")
