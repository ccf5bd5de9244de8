-- The ledger: what is true. Everything else in the schema can be rebuilt from these tables.

-- Moments travel as milliseconds since the Unix epoch and stand as timestamptz, which people and tools can
-- read. There and back is exact to the millisecond. The planner inlines both functions.
CREATE FUNCTION stepweave.from_ms(ms bigint) RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE
    RETURN timestamptz 'epoch' + ms * interval '1 millisecond';

CREATE FUNCTION stepweave.to_ms(moment timestamptz) RETURNS bigint LANGUAGE sql STABLE PARALLEL SAFE
    RETURN (date_part('epoch', moment) * 1000)::bigint;

CREATE TABLE stepweave.installation (
    only_row    boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
    shard_count integer     NOT NULL CHECK (shard_count BETWEEN 1 AND 4096),
    created_at  timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE stepweave.installation IS
    'One row. The shard count is fixed for life: task ids hash to shards.';

-- One row a shard, updated by every append. No column but the key is indexed and the pages are kept nearly
-- empty, so that each update is a HOT update: no index is written and dead row versions are pruned in place.
CREATE TABLE stepweave.shards (
    shard              integer     PRIMARY KEY,
    epoch              bigint      NOT NULL DEFAULT 0,
    owner              text        NOT NULL DEFAULT '',
    lease_until        timestamptz NOT NULL DEFAULT 'epoch',
    head_position      bigint      NOT NULL DEFAULT 0,
    head_hash          bytea       NOT NULL DEFAULT decode(repeat('00', 32), 'hex'),
    published_position bigint      NOT NULL DEFAULT 0,
    CONSTRAINT head_hash_is_sha256 CHECK (octet_length(head_hash) = 32),
    -- A mark beyond the head would make the publisher skip events that do not exist yet.
    CONSTRAINT published_is_behind_head CHECK (published_position BETWEEN 0 AND head_position)
) WITH (fillfactor = 10, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0);
COMMENT ON COLUMN stepweave.shards.epoch IS
    'Fencing token: an append names it; every change of owner raises it.';

CREATE TABLE stepweave.orchestrators (
    owner       text        PRIMARY KEY,
    alive_until timestamptz NOT NULL
);

-- Wide columns first, so that rows carry little padding.
CREATE TABLE stepweave.events (
    position       bigint      NOT NULL,
    recorded_at    timestamptz NOT NULL,
    task_id        uuid        NOT NULL,
    shard          integer     NOT NULL,
    version        integer     NOT NULL CHECK (version >= 1),
    schema_version smallint    NOT NULL,
    type           text        NOT NULL,
    correlation_id text        NOT NULL,
    causation_id   text        NOT NULL,
    actor          text        NOT NULL,
    data           json        NOT NULL,
    hash           bytea       NOT NULL,
    CONSTRAINT events_position_key PRIMARY KEY (shard, position),
    CONSTRAINT events_version_key UNIQUE (task_id, version)
);
COMMENT ON COLUMN stepweave.events.data IS 'json, not jsonb: it keeps the exact text that the hash covers.';

-- Grants keep the service from changing events; this keeps the owner and superusers from doing it by
-- accident. It runs once a statement, and never for an INSERT.
CREATE FUNCTION stepweave.refuse_event_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% of stepweave.events is refused: events are never changed and never deleted', TG_OP
        USING ERRCODE = 'insufficient_privilege';
END
$$;

CREATE TRIGGER events_are_immutable
    BEFORE UPDATE OR DELETE OR TRUNCATE ON stepweave.events
    FOR EACH STATEMENT EXECUTE FUNCTION stepweave.refuse_event_change();
ALTER TABLE stepweave.events ENABLE ALWAYS TRIGGER events_are_immutable;

-- The earliest moment at which a task wants to be woken; no row, no wish. Not indexed by time: an owner reads
-- all rows of its shard once, at take-over, and an update of wake_at stays HOT.
CREATE TABLE stepweave.wakeups (
    task_id uuid        PRIMARY KEY,
    shard   integer     NOT NULL,
    wake_at timestamptz NOT NULL
) WITH (fillfactor = 50);
CREATE INDEX wakeups_of_shard ON stepweave.wakeups (shard);

-- Disposable: a task's state at a version, to shorten replay. One row a format, so that two releases of the
-- program running side by side do not take each other's snapshots away.
CREATE TABLE stepweave.snapshots (
    task_id uuid    NOT NULL,
    format  integer NOT NULL,
    version integer NOT NULL,
    state   bytea   NOT NULL,
    PRIMARY KEY (task_id, format)
);

CREATE TABLE stepweave.feed_incarnations (
    shard   integer PRIMARY KEY,
    streams json    NOT NULL
);
COMMENT ON TABLE stepweave.feed_incarnations IS
    'The JetStream streams (name -> creation stamp) that a shard was last published to.';
