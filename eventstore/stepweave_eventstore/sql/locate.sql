-- locate: where the versions $2 of the streams $1 stand.
SELECT e.task_id::text, e.version, e.shard, e.position
FROM unnest($1::uuid[], $2::integer[]) AS wanted (task_id, version)
JOIN stepweave.events AS e USING (task_id, version)
