-- Give leases back; with a worker's hash first also its place among the workers.
--
-- KEYS: 1 control, 2 workers, then leases
-- ARGV: agent, worker, '1' to leave the workers, '1' when given back in order (nothing was cut off), generations
--   ('' for whatever the worker holds)
-- Returns: count of leases given back
local count = 0
for i = 3, #KEYS do
  local held = redis.call('HMGET', KEYS[i], 'gen', 'owner')
  local generation = ARGV[2 + i]
  if held[2] == ARGV[2] and (generation == '' or held[1] == generation) then
    if ARGV[4] == '1' then
      redis.call('HDEL', KEYS[i], 'owner', 'until', 'version', 'since')
    else
      redis.call('HSET', KEYS[i], 'until', '0')
    end
    count = count + 1
  end
end
if ARGV[3] == '1' then
  redis.call('HDEL', KEYS[2], ARGV[2])
end
redis.call('XADD', KEYS[1], 'MAXLEN', '~', '100', '*', 'leases', ARGV[1])
return count
