-- Let one handler begin when an agent's rate and its limit over all workers allow it.
--
-- KEYS: 1 rate (string: time in ms at which the rate is spent, GCRA), 2 slots (sorted set: handler by expiry)
-- ARGV: interval in ms between two starts ('' for no rate), burst (starts at once), limit ('' for none), handler,
--   time in ms after which a handler that was not renewed is taken for dead
-- Returns: 0 when it may begin, else the ms to wait.
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
if ARGV[3] ~= '' then
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', now))
  if not redis.call('ZSCORE', KEYS[2], ARGV[4]) and redis.call('ZCARD', KEYS[2]) >= tonumber(ARGV[3]) then
    return 20
  end
end
if ARGV[1] ~= '' then
  local interval = tonumber(ARGV[1])
  local spent = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), now)
  local wait = spent - now - interval * (tonumber(ARGV[2]) - 1)
  if wait > 0 then
    return math.ceil(wait)
  end
  redis.call('SET', KEYS[1], string.format('%.3f', spent + interval), 'PX', math.ceil(spent + interval - now) + 1000)
end
if ARGV[3] ~= '' then
  redis.call('ZADD', KEYS[2], string.format('%.0f', now + tonumber(ARGV[5])), ARGV[4])
  redis.call('PEXPIRE', KEYS[2], tonumber(ARGV[5]) * 2)
end
return 0
