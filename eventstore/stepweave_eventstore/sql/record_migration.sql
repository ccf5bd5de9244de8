-- record_migration: the migration $1, whose file has the checksum $2, is applied.
INSERT INTO stepweave.migrations (name, checksum) VALUES ($1, $2)
