-- walk_shard: like read_shard, but stops once the payloads come to $4 bytes (the first event always comes).
SELECT
    shard, position, task_id::text, version, type, schema_version, stepweave.to_ms(recorded_at),
    correlation_id, causation_id, actor, data, hash
FROM (
    SELECT
        *,
        sum(octet_length(data::text)) OVER (ORDER BY position ROWS UNBOUNDED PRECEDING)
            - octet_length(data::text) AS bytes_before
    FROM (
        SELECT * FROM stepweave.events WHERE shard = $1 AND position > $2 ORDER BY position LIMIT $3
    ) AS batch
) AS measured
WHERE bytes_before < $4
ORDER BY position
