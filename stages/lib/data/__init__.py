"""From raw bytes to batches; everything random is a pure function of (seed, epoch, position)."""
