-- wakeups: every wake-up of shard $1.
SELECT task_id::text, shard, stepweave.to_ms(wake_at)
FROM stepweave.wakeups AS w
WHERE shard = $1
ORDER BY w.wake_at, w.task_id
