-- Copy index lists, their references up to a seq; what is there of a copy is written anew.
--
-- KEYS: for each list two: the list, its copy
-- ARGV: seq not to go beyond
-- Returns: how many references were copied.
local PAGE = 1000
local limit, count = tonumber(ARGV[1]), 0

local function copy(list, to)
  redis.call('DEL', to)
  local start = 0
  while true do
    local page = redis.call('LRANGE', list, start, start + PAGE - 1)
    local keep = {}
    for _, reference in ipairs(page) do
      if tonumber(string.match(reference, '^%d+')) > limit then
        break
      end
      keep[#keep + 1] = reference
    end
    if #keep > 0 then
      redis.call('RPUSH', to, unpack(keep))
      count = count + #keep
    end
    if #keep < PAGE then
      return
    end
    start = start + PAGE
  end
end

for i = 1, #KEYS, 2 do
  copy(KEYS[i], KEYS[i + 1])
end
return count
