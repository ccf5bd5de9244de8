-- feed_incarnations: the JetStream streams that shard $1 was last published to.
SELECT streams FROM stepweave.feed_incarnations WHERE shard = $1
