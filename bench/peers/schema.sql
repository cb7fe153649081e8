-- What PostgreSQL keeps: each item once, and the counts.
CREATE TABLE items (tenant text, id text, PRIMARY KEY (tenant, id));
CREATE TABLE counts (tenant text PRIMARY KEY, count bigint NOT NULL);
