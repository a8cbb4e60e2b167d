-- Store states of some keys, where no later ones are stored.
--
-- KEYS: states (hash)
-- ARGV: for each state: key, state (`seq …`), what is stored there and may be written over as it is damaged ('' for none)
-- Returns: how many were stored.
local function seq_of(text)
  return tonumber(string.match(text, '^(%d+)')) or -1
end

local count = 0
for i = 1, #ARGV, 3 do
  local stored = redis.call('HGET', KEYS[1], ARGV[i])
  if not stored or stored == ARGV[i + 2] or seq_of(stored) < seq_of(ARGV[i + 1]) then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
    count = count + 1
  end
end
return count
