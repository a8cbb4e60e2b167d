-- Copy the next fields of a hash whose values begin with a seq up to a limit.
--
-- KEYS: 1 hash, 2 its copy
-- ARGV: cursor, seq not to go beyond
-- Returns: the next cursor.
local found = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', 500)
for i = 1, #found[2], 2 do
  local seq = tonumber(string.match(found[2][i + 1], '^%d+'))
  if seq and seq <= tonumber(ARGV[2]) then
    redis.call('HSET', KEYS[2], found[2][i], found[2][i + 1])
  end
end
return found[1]
