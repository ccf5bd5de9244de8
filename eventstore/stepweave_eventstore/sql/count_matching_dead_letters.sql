-- count_matching_dead_letters: how many dead letters list_dead_letters would find in all.
SELECT count(*)
FROM stepweave.dead_letters
WHERE ($1::uuid IS NULL OR letter_id = $1)
    AND ($2::text IS NULL OR namespace = $2)
    AND ($3::text IS NULL OR name = $3)
    AND ($4::text[] = '{}' OR reason = ANY ($4))
    AND ($5::text[] = '{}' OR resolution_status = ANY ($5))
    AND ($6::boolean IS NULL OR is_listed = $6)
    AND ($7::boolean IS NULL OR is_open = $7)
