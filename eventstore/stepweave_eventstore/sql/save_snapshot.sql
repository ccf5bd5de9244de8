-- save_snapshot: keep the state $4 of stream $1 in format $2 at version $3, unless there is a newer one.
INSERT INTO stepweave.snapshots AS kept (task_id, format, version, state)
VALUES ($1::text::uuid, $2, $3, $4)
ON CONFLICT (task_id, format) DO UPDATE SET version = excluded.version, state = excluded.state
WHERE kept.version < excluded.version
