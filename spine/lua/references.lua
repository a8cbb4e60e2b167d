-- The next references of some indexes, after a seq and up to another: the first of them, or the last.
--
-- KEYS: 1 meta, then the index lists, each in the order of its seqs
-- ARGV: seq to begin after, seq not to go beyond, most references of each list, '1' for the last of them
-- Returns: the epoch that the streams they name go by, then for each list its references, oldest first.
local after, limit, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])

-- How many references of a list are at or before `seq`.
local function count_up_to(list, length, seq)
  local low, high = 0, length
  while low < high do
    local middle = math.floor((low + high) / 2)
    if tonumber(string.match(redis.call('LINDEX', list, middle), '^%d+')) <= seq then
      low = middle + 1
    else
      high = middle
    end
  end
  return low
end

local function page(list)
  local length = redis.call('LLEN', list)
  local first, last = count_up_to(list, length, after), count_up_to(list, length, limit) - 1
  if ARGV[4] == '1' then
    first = math.max(first, last - most + 1)
  else
    last = math.min(last, first + most - 1)
  end
  return last < first and {} or redis.call('LRANGE', list, first, last)
end

local found = { redis.call('HGET', KEYS[1], 'epoch') or '' }
for place = 2, #KEYS do
  found[place] = page(KEYS[place])
end
return found
