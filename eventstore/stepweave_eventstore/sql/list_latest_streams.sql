-- list_latest_streams: as list_streams, those first that have changed last.
SELECT
    stream_id::text, shard, version, kind, namespace, name, status, is_open, stepweave.to_ms(updated_at),
    summary::text
FROM stepweave.streams
WHERE kind = $1
    AND ($2::text IS NULL OR (stepweave.index_key(namespace) = left($2, 200) AND namespace = $2))
    AND ($3::text IS NULL OR (stepweave.index_key(name) = left($3, 200) AND name = $3))
    AND ($4::text[] = '{}' OR status = ANY ($4))
ORDER BY streams.updated_at DESC, streams.stream_id
LIMIT $5 OFFSET $6
