-- read_stream: the events of the stream $1 from version $2 up to version $3, at most $4.
SELECT
    shard, position, task_id::text, version, type, schema_version, stepweave.to_ms(recorded_at),
    correlation_id, causation_id, actor, data, hash
FROM stepweave.events AS e
WHERE e.task_id = $1::uuid AND version BETWEEN $2 AND $3
ORDER BY version
LIMIT $4
