-- projected_position: how far the projections of shard $1 have come.
SELECT position FROM stepweave.projection_checkpoints WHERE shard = $1
