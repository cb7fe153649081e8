-- A batch: $1 are the tenants, $2 the ids. Counts are changed in the order of tenants, so that no two batches
-- wait for each other.
WITH new AS (
    INSERT INTO items SELECT * FROM unnest($1::text[], $2::text[]) ON CONFLICT DO NOTHING RETURNING tenant
)
INSERT INTO counts SELECT tenant, count(*) FROM new GROUP BY tenant ORDER BY tenant
ON CONFLICT (tenant) DO UPDATE SET count = counts.count + excluded.count;
