-- held_steps: how many steps wait before gates of the kinds $1, by namespace.
SELECT namespace, sum((summary->>'waiting')::bigint)
FROM stepweave.streams
WHERE is_open AND kind = ANY ($1::text[]) AND (summary->>'waiting')::bigint > 0
GROUP BY namespace
