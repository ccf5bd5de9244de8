-- read_shard: the events of shard $1 after position $2, at most $3.
SELECT
    shard, position, task_id::text, version, type, schema_version, stepweave.to_ms(recorded_at),
    correlation_id, causation_id, actor, data, hash
FROM stepweave.events
WHERE shard = $1 AND position > $2
ORDER BY position
LIMIT $3
