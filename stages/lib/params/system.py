"""`system`: speed only. No stage declares it, so a change re-runs nothing."""

from typing import Annotated, Literal

from pydantic import Field

from stages.lib.params.frozen import Frozen


class System(Frozen):
    """What the machine can do; never what comes out."""

    device: Literal["auto", "cpu", "cuda"]
    threads: Annotated[int, Field(ge=0)]
    """Compute threads, recorded with a run and kept when it resumes (they move the last bits); 0: every core."""
    workers: Annotated[int, Field(ge=0)]
    """Loader threads; 0: load in the training thread."""
    processes: Annotated[int, Field(ge=0)]
    """Processes for ingest and shard; 0: every core."""
    ranks: Annotated[int, Field(ge=0)] = 0
    """Processes of this machine that train together, one a GPU; 0: as many of the visible GPUs as a batch's
    mixing and norm groups divide over, or one on a CPU."""
    device_batch: Annotated[int, Field(ge=0)] = 0
    """Images a device computes at a time, at most; what is left of its part of a batch follows in further passes (gradient
    accumulation). Recorded with a run and kept when it resumes. 0: its whole part at once."""
    shard_weights: bool = False
    """Processes that train together each keep a share of the weights, gradients and the optimizer's state (FSDP2), for
    transformers that do not fit otherwise. Without effect for one process."""
    price_per_gpu_hour: Annotated[float, Field(ge=0)] = 0.0
    """What a GPU costs an hour, in any currency, for `make preflight`; 0: unknown."""
    max_restarts: Annotated[int, Field(ge=0)] = 3
    """How often processes that train together are started again from the last checkpoint after one of them died."""
    collective_seconds: Annotated[float, Field(gt=0)] = 300.0
    """How long they wait for one that hangs before all are started again; more than the first takes to write a checkpoint."""
    prefetch: Annotated[int, Field(ge=1)]
    """Batches prepared ahead."""
    label_batch: Annotated[int, Field(ge=0)] = 0
    """Images the teacher answers at once while labels are stored; 0: train.views.batch_size, as beside a student. Kept on resume;
    another number may flip single labels, and `label` measures how many."""
    label_compile: bool = False
    """Compile the teacher while labels are stored: faster once it runs, after some minutes of compiling a large one. Kept on
    resume; it may flip single labels, as `label_batch` does."""
    checkpoint_activations: bool = False
    """Keep only each transformer block's input for the backward pass and compute the rest again: the same bits with less memory,
    for a third more work. For models or batches that do not fit."""
    log_seconds: Annotated[float, Field(gt=0)]
    """Between two lines in a log that is no terminal."""
    log_steps: Annotated[int, Field(ge=1)]
    """Steps between two rows of metrics.jsonl."""
    checkpoint_seconds: Annotated[float, Field(ge=0)]
    """Between two checkpoints; 0: after every step."""
    keep_checkpoints: Annotated[int, Field(ge=1)]
    shard_cache_gb: Annotated[float, Field(gt=0)] = 20.0
    """Gigabytes (10^9 bytes) of <run root>/shard-cache, where shards are kept that come from shard.published_uri. Under order
    block it must hold `window` shards; twice as many leave no waiting between two windows."""
