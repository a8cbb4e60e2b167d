-- Take entries of one partition for a consumer group, if the lease is still of this generation.
--
-- KEYS: 1 lease, 2 seq, 3 bell, then streams, the most urgent first
-- ARGV: generation, group, consumer, id that a new group starts after, id of the last ring heard, budget (entries in
--   all), for each stream: how many of its lane are left (itself included), '1' to read one beyond the budget,
--   '>' or an id (pending entries after it)
-- Returns: 0 when the lease is lost, else {counter, time in ms, rings since (newest first), answer for each stream};
--   an answer is {created, asked, entries}: created is 1 when the group had to be made now, asked the count asked for
--   (0: not read), entries is false when there are none.
if redis.call('HGET', KEYS[1], 'gen') ~= ARGV[1] then
  return 0
end
local group, consumer = ARGV[2], ARGV[3]
local budget = tonumber(ARGV[6])

local function read(key, count, from)
  return redis.pcall('XREADGROUP', 'GROUP', group, consumer, 'COUNT', count, 'STREAMS', key, from)
end

local answers = {}
for i = 4, #KEYS do
  local key = KEYS[i]
  local at = 6 + (i - 4) * 3
  local count = math.floor(budget / tonumber(ARGV[at + 1]))
  if count < 1 and ARGV[at + 2] == '1' then
    count = 1
  end
  local created, entries = 0, false
  if count > 0 then
    local found = read(key, count, ARGV[at + 3])
    if found and found.err then
      if string.sub(found.err, 1, 7) ~= 'NOGROUP' then
        return redis.error_reply('SPINEBLOCKED ' .. key .. ' ' .. found.err)
      end
      found = false
      if redis.call('EXISTS', key) == 1 then
        redis.call('XGROUP', 'CREATE', key, group, ARGV[4])
        created = 1
        found = read(key, count, ARGV[at + 3])
      end
    end
    if found then
      entries = found[1][2]
      budget = budget - #entries
    end
  end
  answers[#answers + 1] = { created, count, entries }
end
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local rings = redis.call('XREVRANGE', KEYS[3], '+', '(' .. ARGV[5], 'COUNT', '100')
return { redis.call('GET', KEYS[2]) or '0', now, rings, answers }
