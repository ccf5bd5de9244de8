-- conflicting_streams: of an append that was refused, the streams that hold one of its versions already, and
-- those of which it has a version twice. $1–$3 are its events (shard, stream, version), $4–$6 its shards (shard,
-- epoch, expected position): those that do not match would have stored nothing and are in nobody's way.
WITH wanted AS MATERIALIZED (
    SELECT e.task_id, e.version
    FROM unnest($1::integer[], $2::uuid[], $3::integer[]) AS e (shard, task_id, version)
    JOIN unnest($4::integer[], $5::bigint[], $6::bigint[]) AS a (shard, epoch, expected_position) USING (shard)
    JOIN stepweave.shards AS s ON s.shard = a.shard AND s.epoch = a.epoch AND s.head_position = a.expected_position
)
SELECT task_id::text FROM wanted JOIN stepweave.events USING (task_id, version)
UNION
SELECT task_id::text FROM wanted GROUP BY task_id, version HAVING count(*) > 1
