-- shard_count: the number of shards of the installation.
SELECT shard_count FROM stepweave.installation
