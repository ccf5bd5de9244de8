-- acquire_shards: owner $1 takes those of the shards $2 that are free, for $3 milliseconds.
-- A row that somebody has locked is being written by its owner or by another taker: it is skipped, so that
-- nobody ever waits here.
WITH free AS MATERIALIZED (
    SELECT shard
    FROM stepweave.shards
    WHERE shard = ANY ($2::integer[]) AND (owner = '' OR lease_until <= now())
    FOR NO KEY UPDATE SKIP LOCKED
), taken AS (
    UPDATE stepweave.shards AS s
    SET epoch = s.epoch + 1, owner = $1, lease_until = now() + $3 * interval '1 millisecond'
    FROM free
    WHERE s.shard = free.shard
    RETURNING s.*
)
SELECT
    shard, epoch, owner, (date_part('epoch', lease_until - now()) * 1000)::bigint,
    head_position, head_hash, published_position
FROM taken
ORDER BY shard
