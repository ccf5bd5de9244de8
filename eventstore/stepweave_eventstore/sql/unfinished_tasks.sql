-- unfinished_tasks: the tasks of shard $1 that are not shown as finished.
SELECT task_id::text
FROM stepweave.tasks AS t
WHERE shard = $1 AND status NOT IN ('complete', 'error', 'cancelled', 'resolved_manually')
ORDER BY t.created_at, t.task_id
