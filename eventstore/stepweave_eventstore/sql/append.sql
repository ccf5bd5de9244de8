-- append: one commit of the ledger. $1–$6 are the shards, $7–$18 the events, $19–$21 the wake-ups, by column.
-- Returns the shards that moved. The update of a shard's row is the fencing check (epoch), the allocator of
-- positions (head_position) and the head of the hash chain, all in one; events and wake-ups of a shard that
-- did not move are not stored.
WITH moved AS (
    UPDATE stepweave.shards AS s
    SET head_position = a.new_position,
        head_hash = a.new_hash,
        published_position = greatest(s.published_position, a.published_position)
    FROM unnest($1::integer[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bytea[], $6::bigint[])
        AS a (shard, epoch, expected_position, new_position, new_hash, published_position)
    WHERE s.shard = a.shard
        AND s.epoch = a.epoch
        AND s.head_position = a.expected_position
    RETURNING s.shard
), stored AS (
    INSERT INTO stepweave.events (
        shard, position, task_id, version, type, schema_version, recorded_at,
        correlation_id, causation_id, actor, data, hash
    )
    SELECT
        e.shard, e.position, e.task_id::uuid, e.version, e.type, e.schema_version,
        stepweave.from_ms(e.recorded_at_ms), e.correlation_id, e.causation_id, e.actor, e.data, e.hash
    FROM unnest(
            $7::integer[], $8::bigint[], $9::text[], $10::integer[], $11::text[], $12::smallint[],
            $13::bigint[], $14::text[], $15::text[], $16::text[], $17::json[], $18::bytea[]
        ) AS e (
            shard, position, task_id, version, type, schema_version,
            recorded_at_ms, correlation_id, causation_id, actor, data, hash
        )
    JOIN moved ON moved.shard = e.shard
), wanted AS MATERIALIZED (
    SELECT w.task_id::uuid AS task_id, w.shard, stepweave.from_ms(w.wake_at_ms) AS wake_at
    FROM unnest($19::text[], $20::integer[], $21::bigint[]) AS w (task_id, shard, wake_at_ms)
    JOIN moved ON moved.shard = w.shard
), woken AS (
    INSERT INTO stepweave.wakeups (task_id, shard, wake_at)
    SELECT task_id, shard, wake_at FROM wanted WHERE wake_at IS NOT NULL
    ON CONFLICT (task_id) DO UPDATE SET shard = excluded.shard, wake_at = excluded.wake_at
), cleared AS (
    -- Not a join: its plan, made while the table is empty, could be to read all of it.
    DELETE FROM stepweave.wakeups
    WHERE task_id = ANY (ARRAY(SELECT task_id FROM wanted WHERE wake_at IS NULL))
)
SELECT shard FROM moved
