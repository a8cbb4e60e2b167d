-- Store what a projection folded, as its one owner, and keep being that.
--
-- KEYS: 1 lease, 2 positions (hash by version); then for each state the hash that it goes to, and for each snapshot
-- ARGV: generation, how long the lease lasts from now in ms, version, position, n states, each: field, state;
--   n snapshots, each: seq, state
-- Returns: 1, or 0 when another one owns it: nothing was stored.
if redis.call('HGET', KEYS[1], 'gen') ~= ARGV[1] then
  return 0
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], 'until', string.format('%.0f', now + tonumber(ARGV[2])))
redis.call('HSET', KEYS[2], ARGV[3], ARGV[4])
local at, place = 5, 3
for _ = 1, 2 do
  for _ = 1, tonumber(ARGV[at]) do
    redis.call('HSET', KEYS[place], ARGV[at + 1], ARGV[at + 2])
    at, place = at + 2, place + 1
  end
  at = at + 1
end
return 1
