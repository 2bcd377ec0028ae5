"""All planted faults, and the kinds of clean data they are planted in."""

from tests.faults import manifests, metrics, raw_archives, raw_images, settings, shards, weights
from tests.faults.fault import Bench, Fault

ONES: list[Fault] = raw_images.FAULTS
FAULTS: list[Fault] = [
    *raw_images.FAULTS,
    *raw_archives.FAULTS,
    *manifests.FAULTS,
    *shards.FAULTS,
    *weights.FAULTS,
    *settings.FAULTS,
    *metrics.FAULTS,
]
KINDS: list[type[Bench]] = list(dict.fromkeys(fault.bench for fault in FAULTS))
