-- The roles of Stepweave. Run by psql as a superuser in Stepweave's database, before the first `stepweave migrate`
-- (which needs the owner) and after each (which may have added tables). It may run any number of times.
--
--   stepweave_owner    owns the database schema; only `stepweave migrate` uses it
--   stepweave_service  orchestrators; of events it may add and read, and never change or delete one
--   stepweave_reader   reads everything; nobody can log in as it, grant it to people and dashboards
--
-- Passwords are taken from STEPWEAVE_OWNER_PASSWORD and STEPWEAVE_SERVICE_PASSWORD where these are set.

\getenv owner_password STEPWEAVE_OWNER_PASSWORD
\getenv service_password STEPWEAVE_SERVICE_PASSWORD

BEGIN;

DO $$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['stepweave_owner', 'stepweave_service', 'stepweave_reader'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
            EXECUTE format('CREATE ROLE %I', wanted);
        END IF;
    END LOOP;
END
$$;

ALTER ROLE stepweave_owner LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;
ALTER ROLE stepweave_service LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;
ALTER ROLE stepweave_reader NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;

-- A client that hangs must not hold its locks for ever.
ALTER ROLE stepweave_service SET idle_in_transaction_session_timeout = '60s';
ALTER ROLE stepweave_service SET statement_timeout = '60s';
ALTER ROLE stepweave_service SET lock_timeout = '30s';

\if :{?owner_password}
ALTER ROLE stepweave_owner PASSWORD :'owner_password';
\endif
\if :{?service_password}
ALTER ROLE stepweave_service PASSWORD :'service_password';
\endif

-- Nobody comes in who is not named here.
SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database()) \gexec
SELECT format('GRANT CONNECT, CREATE ON DATABASE %I TO stepweave_owner', current_database()) \gexec
SELECT format('GRANT CONNECT ON DATABASE %I TO stepweave_service, stepweave_reader', current_database()) \gexec
REVOKE CREATE ON SCHEMA public FROM PUBLIC;

CREATE SCHEMA IF NOT EXISTS stepweave AUTHORIZATION stepweave_owner;
ALTER SCHEMA stepweave OWNER TO stepweave_owner;

-- What each role may do with each table is defined by the migrations, beside the tables.
SELECT format('SELECT stepweave.grant_service(%L); SELECT stepweave.grant_reader(%L)',
              'stepweave_service', 'stepweave_reader')
WHERE to_regprocedure('stepweave.grant_service(name)') IS NOT NULL
\gexec

COMMIT;
