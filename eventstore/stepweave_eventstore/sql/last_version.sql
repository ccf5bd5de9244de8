-- last_version: the version of the newest event of the stream $1; 0 where there is none.
SELECT coalesce(max(version), 0)
FROM stepweave.events
WHERE task_id = $1::uuid
