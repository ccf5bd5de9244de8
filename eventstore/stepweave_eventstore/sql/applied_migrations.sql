-- applied_migrations: what was applied to this database.
SELECT name, checksum FROM stepweave.migrations ORDER BY name
