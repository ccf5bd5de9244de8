-- count_tasks: how many tasks list_tasks would find in all.
SELECT count(*)
FROM stepweave.tasks
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
