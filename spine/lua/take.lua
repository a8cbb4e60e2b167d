-- Take entries of one partition for a consumer group, if the lease is still of this generation.
--
-- KEYS: 1 lease, 2 seq, then streams, the most urgent first
-- ARGV: generation, group, consumer, id that a new group starts after, for each stream: count, '>' or an id (pending
--   entries after it)
-- Returns: 0 when the lease is lost, else {counter, time in ms, answer for each stream}; an answer is {created, entries}:
--   created is 1 when the group had to be made now, entries is false when there are none.
if redis.call('HGET', KEYS[1], 'gen') ~= ARGV[1] then
  return 0
end
local group, consumer = ARGV[2], ARGV[3]
local answers = {}
for i = 3, #KEYS do
  local key, count, from = KEYS[i], ARGV[2 * i - 1], ARGV[2 * i]
  local created = 0
  local found = redis.pcall('XREADGROUP', 'GROUP', group, consumer, 'COUNT', count, 'STREAMS', key, from)
  if found and found.err then
    if string.sub(found.err, 1, 7) ~= 'NOGROUP' then
      return redis.error_reply('SPINEBLOCKED ' .. key .. ' ' .. found.err)
    end
    found = false
    if redis.call('EXISTS', key) == 1 then
      redis.call('XGROUP', 'CREATE', key, group, ARGV[4])
      created = 1
      found = redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', count, 'STREAMS', key, from)
    end
  end
  answers[#answers + 1] = { created, found and found[1][2] or false }
end
local time = redis.call('TIME')
return { redis.call('GET', KEYS[2]) or '0', string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)), answers }
