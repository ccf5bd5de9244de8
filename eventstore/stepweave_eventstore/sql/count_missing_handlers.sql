-- count_missing_handlers: the handlers that open dead letters (of namespace $1, where it is not null) name as missing, how
-- many tasks wait for each, and since when (ms); the $2 that most tasks wait for.
SELECT d.namespace, missing.handler, count(*), stepweave.to_ms(min(d.opened_at))
FROM stepweave.dead_letters AS d, json_array_elements_text(d.summary -> 'missing_handlers') AS missing (handler)
WHERE d.is_open AND ($1::text IS NULL OR d.namespace = $1)
GROUP BY d.namespace, missing.handler
ORDER BY count(*) DESC, d.namespace COLLATE "C", missing.handler COLLATE "C"
LIMIT $2
