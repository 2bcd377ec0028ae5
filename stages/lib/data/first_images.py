"""The first images of a split: a sample that is read from its first shards alone. Shards hold every class in proportion."""

from dataclasses import replace

from stages.lib.data.index import Index


def first_images(index: Index, count: int) -> Index:
    """The index of its first `count` images, or of all where there are fewer."""
    mine = slice(0, count)
    return replace(
        index,
        rows=None if index.rows is None else index.rows[mine],
        labels=index.labels[mine],
        shard_of=index.shard_of[mine],
        offset=index.offset[mine],
        size=index.size[mine],
        width=index.width[mine],
        height=index.height[mine],
        orientation=index.orientation[mine],
    )
