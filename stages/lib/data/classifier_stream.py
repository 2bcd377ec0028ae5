"""The stream of training views that `views` define: for whoever trains a classifier, and whoever asks a teacher about them.

Apart from the training of classifiers, so that an edit there is no reason to ask the teacher again.
"""

import numpy as np

from stages.lib.data import mixing, order
from stages.lib.data.augment import classifier_view
from stages.lib.data.batches import Stream
from stages.lib.data.colour import apply_changes
from stages.lib.data.index import Index
from stages.lib.data.randaugment_planes import apply_planes
from stages.lib.data.shards import ShardReader
from stages.lib.params.views import Views


def stream_of(views: Views, index: Index, reader: ShardReader, depth: int) -> Stream:
    """The training stream `views` define; depth: blocks with stochastic depth, 0 for none."""
    group = views.mix_group if views.mixes else 0
    arranged = group and views.order != "deit"

    def mix(rng: np.random.Generator) -> mixing.Mix:
        return mixing.draw(
            rng,
            views.mixup,
            views.cutmix,
            views.mix_prob,
            views.mix_switch,
            views.image_size,
            views.image_size,
            views.cutmix_box,
        )

    return Stream(
        index=index,
        reader=reader,
        order=lambda epoch: _order(views, index, epoch),
        view=classifier_view(views),
        augment=apply_planes if views.randaugment != "none" else apply_changes,
        size=views.image_size,
        batch_size=views.batch_size,
        seed=views.seed,
        depth=depth,
        arrangement=order.grouped(views.batch_size, group, views.repeats) if arranged else None,
        mix_group=group,
        mix=mix if group else None,
    )


def _order(views: Views, index: Index, epoch: int) -> np.ndarray:
    """i64[positions]: the image at each position of an epoch."""
    if views.order == "deit":
        return order.deit(len(index), views.repeats, views.replicas, views.batch_size, epoch)
    if views.order == "block":
        return order.repeated(order.block(index.shard_of, views.window, views.seed, epoch), views.repeats)
    return order.repeated(order.permutation(len(index), views.seed, epoch), views.repeats)
