-- beat: the orchestrator process $1 lives for another $2 milliseconds. Returns the names of all that live.
-- Rows of processes that went away without a word are removed after an hour.
WITH me AS (
    INSERT INTO stepweave.orchestrators (owner, alive_until)
    VALUES ($1, now() + $2 * interval '1 millisecond')
    ON CONFLICT (owner) DO UPDATE SET alive_until = excluded.alive_until
), long_gone AS MATERIALIZED (
    SELECT owner
    FROM stepweave.orchestrators
    WHERE alive_until < now() - interval '1 hour' AND owner <> $1
    FOR UPDATE SKIP LOCKED
), removed AS (
    DELETE FROM stepweave.orchestrators AS o USING long_gone WHERE o.owner = long_gone.owner
)
SELECT owner FROM stepweave.orchestrators WHERE alive_until > now() AND owner <> $1
