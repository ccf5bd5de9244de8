-- standing_tasks: tasks of the shards $1 that have steps with workers and have not changed since $2 (ms), the oldest first;
-- $3 (ms) and $4 name the task behind which to begin (null: the first), $5 is the size of the page.
SELECT task_id::text, shard, stepweave.to_ms(created_at)
FROM stepweave.tasks AS t
WHERE status IN ('steps_in_process', 'compensating')
    AND shard = ANY ($1::integer[])
    AND updated_at < stepweave.from_ms($2::bigint)
    AND ($3::bigint IS NULL OR (created_at, task_id) > (stepweave.from_ms($3), $4::uuid))
ORDER BY t.created_at, t.task_id
LIMIT $5
