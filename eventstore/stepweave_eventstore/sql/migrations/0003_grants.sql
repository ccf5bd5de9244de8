-- Rights of the roles that use the schema; the roles themselves are made by whoever runs the server. Both
-- functions can be called again at any time; a migration that adds a table replaces them and they are called
-- again.

-- What an orchestrator needs, and no more: of events it may only add and read.
CREATE FUNCTION stepweave.grant_service(service name) RETURNS void LANGUAGE plpgsql AS $$
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
        ' stepweave.projection_checkpoints TO %I', service);
END
$$;

-- What reading needs: dashboards, a replay, an audit.
CREATE FUNCTION stepweave.grant_reader(reader name) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA stepweave TO %I', reader);
    EXECUTE format('GRANT SELECT ON ALL TABLES IN SCHEMA stepweave TO %I', reader);
END
$$;

REVOKE ALL ON FUNCTION stepweave.grant_service(name), stepweave.grant_reader(name) FROM PUBLIC;
