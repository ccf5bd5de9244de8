-- list_tasks: one page of tasks, newest first. $1–$10 restrict (null, or an empty array, does not), $11 is the
-- size of the page, $12 the number of tasks before it. Planned anew for each call, so that absent filters cost
-- nothing. $13 and $14, creation in ms and id, are the task after which the page begins. Keep the conditions the same as in count_tasks.
SELECT
    task_id::text, shard, version, namespace, name, template_version, status, priority,
    initiator, source_system, reason, tags, correlation_id, parent_correlation_id,
    stepweave.to_ms(created_at), stepweave.to_ms(updated_at), stepweave.to_ms(completed_at),
    total_steps, completed_steps, failed_steps, error_message
FROM stepweave.tasks AS t
WHERE ($1::text IS NULL OR (stepweave.index_key(namespace) = left($1, 200) AND namespace = $1))
    AND ($2::text IS NULL OR (stepweave.index_key(name) = left($2, 200) AND name = $2))
    AND ($3::text[] = '{}' OR status = ANY ($3))
    AND ($4::text IS NULL OR (stepweave.index_key(initiator) = left($4, 200) AND initiator = $4))
    AND ($5::text IS NULL OR (stepweave.index_key(source_system) = left($5, 200) AND source_system = $5))
    AND (
        $6::text IS NULL
        OR (tags <> '{}' AND stepweave.index_keys(tags) @> ARRAY[left($6, 200)] AND tags @> ARRAY[$6])
    )
    AND ($7::text IS NULL OR (stepweave.index_key(correlation_id) = left($7, 200) AND correlation_id = $7))
    AND ($8::text IS NULL OR template_version = $8)
    AND ($9::bigint IS NULL OR created_at >= stepweave.from_ms($9))
    AND ($10::bigint IS NULL OR created_at < stepweave.from_ms($10))
    AND (
        $13::bigint IS NULL
        OR (t.created_at, t.task_id) < (stepweave.from_ms($13), $14::text::uuid)
    )
ORDER BY t.created_at DESC, t.task_id DESC
LIMIT $11 OFFSET $12
