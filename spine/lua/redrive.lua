-- Bring dead letters of one key back: their events go to the front of the key's waiting list, and the key is released.
--
-- KEYS: 1 dead letters, 2 waiting list, 3 holds, 4 control; then the stream of each letter's event
-- ARGV: agent, partition, key, hold as it was read ('' for none), hold as it is to be; for each letter, in the order in
--   which they are to run: its field, id of its event, its reference for the waiting list
-- Returns: 0 when the hold is another one by now, else for each letter 1 when it is on its way, 0 when it is no dead
--   letter any more, 2 when its event was trimmed away
for i, kind in ipairs({ 'hash', 'list', 'hash' }) do
  local found = redis.call('TYPE', KEYS[i])
  found = type(found) == 'table' and found.ok or found
  if found ~= 'none' and found ~= kind then
    return redis.error_reply('SPINEBLOCKED ' .. KEYS[i] .. ' holds another type')
  end
end
if (redis.call('HGET', KEYS[3], ARGV[3]) or '') ~= ARGV[4] then
  return 0
end
local count = #KEYS - 4
local came = {}
for i = count, 1, -1 do
  local at = 5 + (i - 1) * 3
  local id = ARGV[at + 2]
  came[i] = 1
  if redis.call('HEXISTS', KEYS[1], ARGV[at + 1]) == 0 then
    came[i] = 0
  elseif #redis.call('XRANGE', KEYS[4 + i], id, id) == 0 then
    came[i] = 2
  else
    redis.call('HDEL', KEYS[1], ARGV[at + 1])
    redis.call('LPUSH', KEYS[2], ARGV[at + 3])
  end
end
if redis.call('EXISTS', KEYS[2]) == 1 then
  redis.call('HSET', KEYS[3], ARGV[3], ARGV[5])
else
  redis.call('HDEL', KEYS[3], ARGV[3])
end
redis.call('XADD', KEYS[4], 'MAXLEN', '~', '100', '*', 'holds', ARGV[1] .. ':' .. ARGV[2])
return came
