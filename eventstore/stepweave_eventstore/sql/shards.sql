-- shards: every shard's row; the rest of the lease in milliseconds, by the database's clock.
SELECT
    shard, epoch, owner, (date_part('epoch', lease_until - now()) * 1000)::bigint,
    head_position, head_hash, published_position
FROM stepweave.shards
ORDER BY shard
