-- list_templates: every template version, of namespace $1 where that is not null.
SELECT
    namespace, name, version, hash, description, total_steps, stepweave.to_ms(registered_at), registered_by
FROM stepweave.templates
WHERE $1::text IS NULL OR namespace = $1
ORDER BY namespace COLLATE "C", name COLLATE "C", registered_at, version COLLATE "C"
