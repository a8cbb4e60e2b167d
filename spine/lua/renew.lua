-- Renew what a worker holds: its entry among the workers of each agent, and its leases.
--
-- KEYS: n worker hashes, then leases
-- ARGV: worker, duration in ms, n, description for each worker hash, generation for each lease
-- Returns: for each lease 1 when it is still held, 0 when another one has it.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local till = string.format('%.0f', now + tonumber(ARGV[2]))
local agents = tonumber(ARGV[3])
for i = 1, agents do
  redis.call('HSET', KEYS[i], ARGV[1], till .. ' ' .. ARGV[3 + i])
end
local kept = {}
for i = agents + 1, #KEYS do
  local held = redis.call('HMGET', KEYS[i], 'gen', 'owner')
  if held[1] == ARGV[3 + i] and held[2] == ARGV[1] then
    redis.call('HSET', KEYS[i], 'until', till)
    kept[#kept + 1] = 1
  else
    kept[#kept + 1] = 0
  end
end
return kept
