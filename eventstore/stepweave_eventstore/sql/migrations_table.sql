-- migrations_table: the record of what was applied; made by the migrator itself, before the first migration.
CREATE TABLE stepweave.migrations (
    name       text        PRIMARY KEY,
    checksum   text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
