-- reset_projections: empty the projections of every shard.
TRUNCATE stepweave.tasks, stepweave.templates, stepweave.projection_checkpoints
