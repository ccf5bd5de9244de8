-- initialise: the one row of a new installation with $1 shards, and their rows; nothing where there is one.
WITH fresh AS (
    INSERT INTO stepweave.installation (shard_count) VALUES ($1)
    ON CONFLICT DO NOTHING
    RETURNING shard_count
)
INSERT INTO stepweave.shards (shard)
SELECT generate_series(0, fresh.shard_count - 1) FROM fresh
