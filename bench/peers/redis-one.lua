-- One item for redis-benchmark, which draws all random numbers from one range: the tenant is the number's last
-- three digits. Returns 1 if the item was new.
local tenant = 't' .. string.sub(ARGV[1], -3)
local new = redis.call('SADD', 'items:' .. tenant, 'order-' .. ARGV[1])
if new > 0 then
    redis.call('HINCRBY', 'counts', tenant, 1)
end
return new
