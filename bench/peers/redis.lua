-- Counts items once each, grouped by tenant: ARGV is tenant, n, n ids, tenant, n, n ids, …
-- Ids are kept in a set for each tenant, counts in one hash. Returns how many were new.
local added = 0
local at = 1
while at < #ARGV do
    local tenant, n = ARGV[at], tonumber(ARGV[at + 1])
    local new = redis.call('SADD', 'items:' .. tenant, unpack(ARGV, at + 2, at + 1 + n))
    if new > 0 then
        redis.call('HINCRBY', 'counts', tenant, new)
        added = added + new
    end
    at = at + 2 + n
end
return added
