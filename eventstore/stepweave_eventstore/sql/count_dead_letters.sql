-- count_dead_letters: how many listed letters there are of each kind (of namespace $1, where it is not null), the most
-- frequent $2 kinds first.
SELECT
    namespace, name, reason, resolution_status, count(*), count(*) FILTER (WHERE is_open),
    stepweave.to_ms(min(opened_at) FILTER (WHERE is_open)),
    coalesce(sum(stepweave.to_ms(resolved_at) - stepweave.to_ms(opened_at)), 0)::bigint
FROM stepweave.dead_letters
WHERE is_listed AND ($1::text IS NULL OR namespace = $1)
GROUP BY namespace, name, reason, resolution_status
ORDER BY count(*) DESC, namespace COLLATE "C", name COLLATE "C", reason COLLATE "C", resolution_status COLLATE "C"
LIMIT $2
