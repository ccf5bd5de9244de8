-- read_streams: all events of the streams $1.
SELECT
    shard, position, task_id::text, version, type, schema_version, stepweave.to_ms(recorded_at),
    correlation_id, causation_id, actor, data, hash
FROM stepweave.events AS e
WHERE e.task_id = ANY ($1::uuid[])
ORDER BY e.task_id, version
