-- reset_projections: empty the projections of every shard.
TRUNCATE stepweave.tasks, stepweave.templates, stepweave.streams, stepweave.projection_checkpoints
