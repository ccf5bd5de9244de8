-- set_feed_incarnations: replace them by $3, where shard $1 is held at epoch $2.
WITH held AS MATERIALIZED (
    SELECT shard FROM stepweave.shards WHERE shard = $1 AND epoch = $2 FOR NO KEY UPDATE
)
INSERT INTO stepweave.feed_incarnations (shard, streams)
SELECT shard, $3::json FROM held
ON CONFLICT (shard) DO UPDATE SET streams = excluded.streams
