-- release_shards: owner $1 gives up the shards $2 held at the epochs $3, published up to $4. The epoch moves,
-- so that nothing of the old owner is stored from now on.
UPDATE stepweave.shards AS s
SET epoch = s.epoch + 1,
    owner = '',
    lease_until = now(),
    published_position = greatest(s.published_position, held.published_position)
FROM unnest($2::integer[], $3::bigint[], $4::bigint[]) AS held (shard, epoch, published_position)
WHERE s.shard = held.shard AND s.epoch = held.epoch AND s.owner = $1
