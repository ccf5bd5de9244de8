-- list_streams: one page of the system's own streams of kind $1 in order of namespace and name; $2–$4 restrict (null,
-- or an empty array, does not), $5 is the size of the page, $6 the number of streams before it.
SELECT
    stream_id::text, shard, version, kind, namespace, name, status, is_open, stepweave.to_ms(updated_at),
    summary::text
FROM stepweave.streams
WHERE kind = $1
    AND ($2::text IS NULL OR (stepweave.index_key(namespace) = left($2, 200) AND namespace = $2))
    AND ($3::text IS NULL OR (stepweave.index_key(name) = left($3, 200) AND name = $3))
    AND ($4::text[] = '{}' OR status = ANY ($4))
ORDER BY stepweave.index_key(namespace) COLLATE "C", stepweave.index_key(name) COLLATE "C", streams.stream_id
LIMIT $5 OFFSET $6
