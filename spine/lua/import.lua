-- Append events with the numbers and times that they had: all at once, and each once.
--
-- KEYS: 1 seq, 2 clock, 3 streams, 4 meta; then for each event its stream, its index by key and its index by correlation (the
--   one by key once more where there is none); then the sessions that change
-- ARGV: last number imported before; the sum of the lines up to the last of these; n events, each: seq, time in ms,
--   `lane/topic`, partition, '1' for an index by correlation, data; n changes of sessions, each: n fields to set, field, value, ...; n fields to remove, field, ...
-- Returns: the last number imported now, -1 when that before is another one: nothing was stored.
local at, place = 1, 4
local function arg()
  at = at + 1
  return ARGV[at]
end
local function key()
  place = place + 1
  return KEYS[place]
end

if (redis.call('HGET', KEYS[4], 'imported') or '0') ~= ARGV[1] then
  return -1
end

local function number_of(name)
  local number = redis.call('HGET', KEYS[3], name)
  if not number then
    number = string.format('%d', redis.call('HLEN', KEYS[3]) + 1)
    redis.call('HSET', KEYS[3], name, number)
  end
  return number
end

local sum = arg()
local last, time
for _ = 1, tonumber(arg()) do
  local seq, ts, name, partition, by_correlation, data = arg(), arg(), arg(), arg(), arg(), arg()
  local stream, index, correlation = key(), key(), key()
  local reference = seq .. ':' .. number_of(name)
  redis.call('XADD', stream, seq .. '-0', ts, data)
  redis.call('RPUSH', index, reference)
  if by_correlation == '1' then
    redis.call('RPUSH', correlation, reference .. ':' .. partition)
  end
  last, time = seq, ts
end
for _ = 1, tonumber(arg()) do
  local session = key()
  for _ = 1, tonumber(arg()) do
    redis.call('HSET', session, arg(), arg())
  end
  for _ = 1, tonumber(arg()) do
    redis.call('HDEL', session, arg())
  end
end
redis.call('HSET', KEYS[4], 'imported', last, 'imported_sum', sum)
if tonumber(redis.call('GET', KEYS[1]) or '0') < tonumber(last) then
  redis.call('SET', KEYS[1], last)
end
redis.call('SET', KEYS[2], time)
return tonumber(last)
