-- Projections: what lists and searches read. They hold no truth: they can be emptied and rebuilt from the
-- events.

-- An index entry has a size limit, a text from outside has none; so indexes hold the beginning of it. Queries
-- compare the beginning (by index) and the whole.
CREATE FUNCTION stepweave.index_key(value text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN left(value, 200);

CREATE FUNCTION stepweave.index_keys(texts text[]) RETURNS text[]
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN ARRAY(SELECT left(value, 200) FROM unnest(texts) AS value);

CREATE TABLE stepweave.tasks (
    task_id               uuid     PRIMARY KEY,
    created_at            timestamptz NOT NULL,
    updated_at            timestamptz NOT NULL,
    completed_at          timestamptz,
    shard                 integer  NOT NULL,
    version               integer  NOT NULL,
    priority              integer  NOT NULL,
    total_steps           integer  NOT NULL,
    completed_steps       integer  NOT NULL,
    failed_steps          integer  NOT NULL,
    namespace             text     NOT NULL,
    name                  text     NOT NULL,
    template_version      text     NOT NULL,
    status                text     NOT NULL,
    initiator             text     NOT NULL,
    source_system         text     NOT NULL,
    reason                text     NOT NULL,
    tags                  text[]   NOT NULL,
    correlation_id        text     NOT NULL,
    parent_correlation_id text,
    error_message         text
) WITH (fillfactor = 70);

CREATE INDEX tasks_newest ON stepweave.tasks (created_at, task_id);
CREATE INDEX tasks_of_namespace ON stepweave.tasks (stepweave.index_key(namespace), created_at, task_id);
CREATE INDEX tasks_of_name ON stepweave.tasks (stepweave.index_key(name), created_at, task_id);
CREATE INDEX tasks_of_status ON stepweave.tasks (status, created_at, task_id);
CREATE INDEX tasks_of_initiator ON stepweave.tasks (stepweave.index_key(initiator), created_at, task_id);
CREATE INDEX tasks_of_source_system
    ON stepweave.tasks (stepweave.index_key(source_system), created_at, task_id);
CREATE INDEX tasks_of_correlation_id ON stepweave.tasks (stepweave.index_key(correlation_id));
CREATE INDEX tasks_with_tag ON stepweave.tasks USING gin (stepweave.index_keys(tags)) WHERE tags <> '{}';
CREATE INDEX tasks_unfinished ON stepweave.tasks (shard)
    WHERE status NOT IN ('complete', 'error', 'cancelled', 'resolved_manually');

CREATE TABLE stepweave.templates (
    namespace     text        NOT NULL,
    name          text        NOT NULL,
    version       text        NOT NULL,
    shard         integer     NOT NULL,
    hash          text        NOT NULL,
    description   text        NOT NULL,
    total_steps   integer     NOT NULL,
    registered_at timestamptz NOT NULL,
    registered_by text        NOT NULL,
    PRIMARY KEY (namespace, name, version)
);

CREATE TABLE stepweave.projection_checkpoints (
    shard    integer PRIMARY KEY,
    position bigint  NOT NULL
) WITH (fillfactor = 50);
