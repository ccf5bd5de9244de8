-- size: how large the database is, on its own server's disk.
SELECT pg_database_size(current_database())
