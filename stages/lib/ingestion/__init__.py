"""From what people come with to manifest and shards; only scan, ingest, shard and check look in here."""
