-- load_snapshot: the snapshot of stream $1 in format $2, if its version is at most $3.
SELECT task_id::text, version, format, state
FROM stepweave.snapshots AS s
WHERE s.task_id = $1::uuid AND format = $2 AND version <= $3
