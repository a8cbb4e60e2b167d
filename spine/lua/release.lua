-- Give leases back; with a worker's hash first also its place among the workers.
--
-- KEYS: 1 control, 2 workers, then leases
-- ARGV: agent, worker, '1' to leave the workers; for each lease: its generation ('' for whatever the worker holds), '1'
--   when it is given back in order (nothing pending was in hand when a worker died)
-- Returns: count of leases given back
local count = 0
for i = 3, #KEYS do
  local held = redis.call('HMGET', KEYS[i], 'gen', 'owner')
  local generation, clean = ARGV[2 * i - 2], ARGV[2 * i - 1]
  if held[2] == ARGV[2] and (generation == '' or held[1] == generation) then
    if clean == '1' then
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
