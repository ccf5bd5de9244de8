-- open_streams: the system's own streams of shard $1 that may have something under way.
SELECT stream_id::text FROM stepweave.streams WHERE shard = $1 AND is_open ORDER BY stream_id
