-- standing_tasks: tasks of the shards $1 that have steps with workers, the oldest first, with whether they have not changed
-- since $2 (ms) and which handlers their open dead letter names as missing; $3 (ms) and $4 name the task behind which to
-- begin (null: the first), $5 is the size of the page.
SELECT
    t.task_id::text, t.shard, stepweave.to_ms(t.created_at), t.namespace, t.name, t.template_version, t.status,
    t.updated_at < stepweave.from_ms($2::bigint),
    ARRAY(
        SELECT missing.handler
        FROM
            stepweave.dead_letters AS d,
            json_array_elements_text(d.summary -> 'missing_handlers') WITH ORDINALITY AS missing (handler, place)
        WHERE d.task_id = t.task_id AND d.is_open
        ORDER BY d.number, missing.place
    )
FROM stepweave.tasks AS t
WHERE t.status IN ('steps_in_process', 'compensating')
    AND t.shard = ANY ($1::integer[])
    AND ($3::bigint IS NULL OR (t.created_at, t.task_id) > (stepweave.from_ms($3), $4::uuid))
ORDER BY t.created_at, t.task_id
LIMIT $5
