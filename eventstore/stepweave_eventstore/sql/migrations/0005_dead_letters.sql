-- Dead letters: tasks that were stuck, and what became of them. A projection like the tasks: the truth is in the events.

CREATE TABLE stepweave.dead_letters (
    letter_id         uuid        PRIMARY KEY,
    opened_at         timestamptz NOT NULL,
    resolved_at       timestamptz,
    -- The order of the investigation queue: when it was opened, earlier by an hour for each point of priority.
    urgent_since      timestamptz NOT NULL,
    task_id           uuid        NOT NULL,
    shard             integer     NOT NULL,
    version           integer     NOT NULL,
    number            integer     NOT NULL,
    priority          integer     NOT NULL,
    -- Whether it is among the dead letters; otherwise it is only known to be stale.
    is_listed         boolean     NOT NULL,
    is_open           boolean     NOT NULL,
    namespace         text        NOT NULL,
    name              text        NOT NULL,
    reason            text        NOT NULL,
    resolution_status text        NOT NULL,
    summary           json        NOT NULL
) WITH (fillfactor = 70);
COMMENT ON TABLE stepweave.dead_letters IS
    'Projection of the times that tasks were stuck; a task keeps its last ones.';

CREATE INDEX dead_letters_of_task ON stepweave.dead_letters (task_id, number);
CREATE INDEX dead_letters_newest ON stepweave.dead_letters (opened_at, letter_id);
CREATE INDEX dead_letters_open ON stepweave.dead_letters (urgent_since, letter_id) WHERE is_open;

CREATE OR REPLACE FUNCTION stepweave.grant_service(service name) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF pg_has_role(service, (SELECT relowner FROM pg_class WHERE oid = 'stepweave.events'::regclass), 'MEMBER')
    THEN
        RAISE EXCEPTION 'role % can act as the owner of stepweave.events: no grant can bind it', service
            USING ERRCODE = 'invalid_grant_operation',
                HINT = 'Run the service as a role of its own, that neither owns the schema nor is a superuser.';
    END IF;
    EXECUTE format('GRANT USAGE ON SCHEMA stepweave TO %I', service);
    EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA stepweave FROM %I', service);
    EXECUTE format('GRANT SELECT ON stepweave.migrations TO %I', service);
    EXECUTE format('GRANT SELECT, INSERT ON stepweave.events, stepweave.installation TO %I', service);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE ON stepweave.shards TO %I', service);
    EXECUTE format(
        'GRANT SELECT, INSERT, UPDATE, DELETE ON stepweave.orchestrators, stepweave.wakeups,'
        ' stepweave.snapshots, stepweave.feed_incarnations TO %I', service);
    EXECUTE format(
        'GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON stepweave.tasks, stepweave.templates,'
        ' stepweave.streams, stepweave.dead_letters, stepweave.projection_checkpoints TO %I', service);
END
$$;
