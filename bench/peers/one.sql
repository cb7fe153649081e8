-- One item, for pgbench.
\set tenant random(0, :tenants - 1)
\set id random(1, 1000000000000)
WITH new AS (
    INSERT INTO items VALUES ('t' || :tenant, 'order-' || :id) ON CONFLICT DO NOTHING RETURNING tenant
)
INSERT INTO counts SELECT tenant, count(*) FROM new GROUP BY tenant
ON CONFLICT (tenant) DO UPDATE SET count = counts.count + excluded.count;
