-- project_streams: upsert the rows of $1, a JSON array of the rows as structs. A row never goes back to an older
-- version.
INSERT INTO stepweave.streams AS kept (
    stream_id, updated_at, shard, version, is_open, kind, namespace, name, status, summary
)
SELECT
    stream_id, stepweave.from_ms(updated_at_ms), shard, version, is_open, kind, namespace, name, status, summary
FROM json_to_recordset($1::json) AS new (
    stream_id uuid, updated_at_ms bigint, shard integer, version integer, is_open boolean,
    kind text, namespace text, name text, status text, summary json
)
ON CONFLICT (stream_id) DO UPDATE SET
    updated_at = excluded.updated_at,
    shard = excluded.shard,
    version = excluded.version,
    is_open = excluded.is_open,
    kind = excluded.kind,
    namespace = excluded.namespace,
    name = excluded.name,
    status = excluded.status,
    summary = excluded.summary
WHERE kept.version <= excluded.version
