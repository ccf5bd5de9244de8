-- project: upsert the rows of $3 (tasks) and $4 (templates), both JSON arrays of the rows as structs, and
-- move the checkpoint of shard $1 to position $2. A task's row never goes back to an older version.
WITH tasks_kept AS (
    INSERT INTO stepweave.tasks AS kept (
        task_id, created_at, updated_at, completed_at, shard, version, priority,
        total_steps, completed_steps, failed_steps, namespace, name, template_version, status,
        initiator, source_system, reason, tags, correlation_id, parent_correlation_id, error_message
    )
    SELECT
        task_id, stepweave.from_ms(created_at_ms), stepweave.from_ms(updated_at_ms),
        stepweave.from_ms(completed_at_ms), shard, version, priority,
        total_steps, completed_steps, failed_steps, namespace, name, template_version, status,
        initiator, source_system, reason, tags, correlation_id, parent_correlation_id, error_message
    FROM json_to_recordset($3::json) AS new (
        task_id uuid, created_at_ms bigint, updated_at_ms bigint, completed_at_ms bigint,
        shard integer, version integer, priority integer,
        total_steps integer, completed_steps integer, failed_steps integer,
        namespace text, name text, template_version text, status text,
        initiator text, source_system text, reason text, tags text[],
        correlation_id text, parent_correlation_id text, error_message text
    )
    ON CONFLICT (task_id) DO UPDATE SET
        created_at = excluded.created_at,
        updated_at = excluded.updated_at,
        completed_at = excluded.completed_at,
        shard = excluded.shard,
        version = excluded.version,
        priority = excluded.priority,
        total_steps = excluded.total_steps,
        completed_steps = excluded.completed_steps,
        failed_steps = excluded.failed_steps,
        namespace = excluded.namespace,
        name = excluded.name,
        template_version = excluded.template_version,
        status = excluded.status,
        initiator = excluded.initiator,
        source_system = excluded.source_system,
        reason = excluded.reason,
        tags = excluded.tags,
        correlation_id = excluded.correlation_id,
        parent_correlation_id = excluded.parent_correlation_id,
        error_message = excluded.error_message
    WHERE kept.version <= excluded.version
), templates_kept AS (
    INSERT INTO stepweave.templates (
        namespace, name, version, shard, hash, description, total_steps, registered_at, registered_by
    )
    SELECT
        namespace, name, version, $1, hash, description, total_steps,
        stepweave.from_ms(registered_at_ms), registered_by
    FROM json_to_recordset($4::json) AS new (
        namespace text, name text, version text, hash text, description text, total_steps integer,
        registered_at_ms bigint, registered_by text
    )
    ON CONFLICT (namespace, name, version) DO UPDATE SET
        shard = excluded.shard,
        hash = excluded.hash,
        description = excluded.description,
        total_steps = excluded.total_steps,
        registered_at = excluded.registered_at,
        registered_by = excluded.registered_by
)
INSERT INTO stepweave.projection_checkpoints AS kept (shard, position)
VALUES ($1, $2)
ON CONFLICT (shard) DO UPDATE SET position = greatest(kept.position, excluded.position)
