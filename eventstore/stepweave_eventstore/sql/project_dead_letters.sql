-- project_dead_letters: upsert the rows of $1, a JSON array of the rows as structs; one point of priority counts as $2 ms
-- of age, and of each task the last $3 letters are kept. A row never goes back to an older version.
WITH new AS MATERIALIZED (
    SELECT *
    FROM json_to_recordset($1::json) AS given (
        letter_id uuid, task_id uuid, shard integer, version integer, number integer, is_listed boolean,
        is_open boolean, namespace text, name text, reason text, resolution_status text, priority integer,
        opened_at_ms bigint, resolved_at_ms bigint, summary json
    )
), outdated AS (
    DELETE FROM stepweave.dead_letters AS kept
    USING new
    WHERE kept.task_id = new.task_id AND kept.number <= new.number - $3::integer
)
INSERT INTO stepweave.dead_letters AS kept (
    letter_id, opened_at, resolved_at, urgent_since, task_id, shard, version, number, priority, is_listed, is_open,
    namespace, name, reason, resolution_status, summary
)
SELECT
    letter_id, stepweave.from_ms(opened_at_ms), stepweave.from_ms(resolved_at_ms),
    stepweave.from_ms(opened_at_ms - priority * $2::bigint), task_id, shard, version, number, priority, is_listed,
    is_open, namespace, name, reason, resolution_status, summary
FROM new
ON CONFLICT (letter_id) DO UPDATE SET
    opened_at = excluded.opened_at,
    resolved_at = excluded.resolved_at,
    urgent_since = excluded.urgent_since,
    shard = excluded.shard,
    version = excluded.version,
    priority = excluded.priority,
    is_listed = excluded.is_listed,
    is_open = excluded.is_open,
    namespace = excluded.namespace,
    name = excluded.name,
    reason = excluded.reason,
    resolution_status = excluded.resolution_status,
    summary = excluded.summary
WHERE kept.version <= excluded.version
