"""From shards to batches, and facts for the gates; everything random is a pure function of (seed, epoch, position)."""
