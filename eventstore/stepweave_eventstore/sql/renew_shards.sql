-- renew_shards: owner $1 keeps the shards $2 held at the epochs $3 for another $4 milliseconds, and marks
-- them as published up to $5. Returns the shards kept.
UPDATE stepweave.shards AS s
SET lease_until = now() + $4 * interval '1 millisecond',
    published_position = greatest(s.published_position, held.published_position)
FROM unnest($2::integer[], $3::bigint[], $5::bigint[]) AS held (shard, epoch, published_position)
WHERE s.shard = held.shard AND s.epoch = held.epoch AND s.owner = $1
RETURNING s.shard
