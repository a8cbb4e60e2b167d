-- Let one handler begin when an agent's rate and its limit over all workers allow it.
--
-- KEYS: 1 rate (string: time in ms at which the rate is spent, GCRA), 2 slots (set: `worker:seq` of each handler at
--   work), 3 workers
-- ARGV: interval in ms between two starts ('' for no rate), burst (starts at once), limit ('' for none), handler as it
--   stands among the slots
-- Returns: 0 when it may begin, else the ms to wait.
local AGAIN_MS = 20

local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000

-- Tell whether every slot is taken, by handlers of workers that live.
local function is_full(limit)
  if redis.call('SCARD', KEYS[2]) < limit then
    return false
  end
  local lives = {}
  for _, handler in ipairs(redis.call('SMEMBERS', KEYS[2])) do
    local worker = string.match(handler, '^(.*):')
    if lives[worker] == nil then
      local found = redis.call('HGET', KEYS[3], worker)
      lives[worker] = found and tonumber(string.match(found, '^%d+')) > now or false
    end
    if not lives[worker] then
      redis.call('SREM', KEYS[2], handler)
    end
  end
  return redis.call('SCARD', KEYS[2]) >= limit
end

if ARGV[3] ~= '' and redis.call('SISMEMBER', KEYS[2], ARGV[4]) == 0 and is_full(tonumber(ARGV[3])) then
  return AGAIN_MS
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
  redis.call('SADD', KEYS[2], ARGV[4])
end
return 0
