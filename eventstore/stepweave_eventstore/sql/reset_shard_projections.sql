-- reset_shard_projections: empty the projections of shard $1.
WITH checkpoint AS (
    DELETE FROM stepweave.projection_checkpoints WHERE shard = $1
), gone AS (
    DELETE FROM stepweave.templates WHERE shard = $1
), streams_gone AS (
    DELETE FROM stepweave.streams WHERE shard = $1
), dead_letters_gone AS (
    DELETE FROM stepweave.dead_letters WHERE shard = $1
)
DELETE FROM stepweave.tasks WHERE shard = $1
