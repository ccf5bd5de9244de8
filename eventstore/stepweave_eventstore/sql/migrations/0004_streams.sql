-- The system's own streams that are actors: schedules, gates, bulk operations. A projection like the tasks.

CREATE TABLE stepweave.streams (
    stream_id  uuid        PRIMARY KEY,
    updated_at timestamptz NOT NULL,
    shard      integer     NOT NULL,
    version    integer     NOT NULL,
    -- Whether the stream may have something under way that a new owner has to look after.
    is_open    boolean     NOT NULL,
    kind       text        NOT NULL,
    namespace  text        NOT NULL,
    name       text        NOT NULL,
    status     text        NOT NULL,
    summary    json        NOT NULL
) WITH (fillfactor = 70);
COMMENT ON TABLE stepweave.streams IS
    'Projection of the system''s own streams; summary is what lists show, by kind.';

CREATE INDEX streams_of_kind
    ON stepweave.streams (
        kind, stepweave.index_key(namespace) COLLATE "C", stepweave.index_key(name) COLLATE "C", stream_id
    );
CREATE INDEX streams_open ON stepweave.streams (shard) WHERE is_open;

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
        ' stepweave.streams, stepweave.projection_checkpoints TO %I', service);
END
$$;
