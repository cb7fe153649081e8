-- The distinct items, the sum of the counts, and the tenants whose count is wrong.
SELECT
    (SELECT count(*) FROM items) AS items,
    (SELECT coalesce(sum(count), 0)::bigint FROM counts) AS counted,
    (SELECT count(*) FROM counts FULL JOIN (SELECT tenant, count(*) AS n FROM items GROUP BY tenant) AS owned
     USING (tenant) WHERE counts.count IS DISTINCT FROM owned.n) AS wrong;
