-- list_dead_letters: one page of dead letters, the newest first, or the most urgent first where $8. $1–$7 restrict (null,
-- or an empty array, does not), $9 is the size of the page, $10 the number of letters before it. Keep the conditions the
-- same as in count_matching_dead_letters.
SELECT
    letter_id::text, task_id::text, shard, version, number, is_listed, is_open, namespace, name, reason,
    resolution_status, priority, stepweave.to_ms(opened_at), stepweave.to_ms(resolved_at), summary::text
FROM stepweave.dead_letters AS d
WHERE ($1::uuid IS NULL OR letter_id = $1)
    AND ($2::text IS NULL OR namespace = $2)
    AND ($3::text IS NULL OR name = $3)
    AND ($4::text[] = '{}' OR reason = ANY ($4))
    AND ($5::text[] = '{}' OR resolution_status = ANY ($5))
    AND ($6::boolean IS NULL OR is_listed = $6)
    AND ($7::boolean IS NULL OR is_open = $7)
ORDER BY
    CASE WHEN $8::boolean THEN d.urgent_since END ASC,
    CASE WHEN $8::boolean THEN d.letter_id END ASC,
    d.opened_at DESC, d.letter_id DESC
LIMIT $9 OFFSET $10
