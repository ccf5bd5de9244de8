-- reset_projections: empty the projections of every shard.
TRUNCATE
    stepweave.tasks, stepweave.templates, stepweave.streams, stepweave.dead_letters, stepweave.projection_checkpoints
