-- Take the lease of one partition when it is free; each holder gets a generation of its own, the fencing token.
--
-- KEYS: 1 lease
-- ARGV: worker, version, duration in ms
-- Returns: generation, 1 when the holder before gave it back in order (else 0), 1 when nobody ever held it; or 0 when it
--   is held.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local held = redis.call('HMGET', KEYS[1], 'owner', 'until', 'gen')
if held[1] and held[1] ~= ARGV[1] and tonumber(held[2]) > now then
  return 0
end
-- Never below the time: a server that lost its data gives no token a second time.
local generation = string.format('%.0f', math.max(now, tonumber(held[3] or '0') + 1))
redis.call('HSET', KEYS[1], 'gen', generation, 'recovery', 0, 'owner', ARGV[1], 'version', ARGV[2],
  'since', string.format('%.0f', now), 'until', string.format('%.0f', now + tonumber(ARGV[3])))
return { generation, held[1] and 0 or 1, held[3] and 0 or 1 }
