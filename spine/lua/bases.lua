-- The nearest stored state of some keys at or before a seq, and the references of their events after it.
--
-- KEYS: four for each key: states (hash), its snapshots (hash), what was trimmed (hash), its index (list)
-- ARGV: most references in all; four for each key: the key; where to begin: 'newest' (the stored state, even one beyond
--   the seq asked for), 'stored' (the stored state, or a snapshot where that is too new or missing), 'snapshot' (a
--   snapshot), 'snapshot:SEQ' (one of before that seq), or a seq to begin after, without any state; the seq not to go
--   beyond; most references of this key
-- Returns for each key: {stored state or '', seq of the snapshot if it is one or '', what was trimmed or '', how many
--   references are in the range, the first of them}. A state that does not begin with its seq is returned for the
--   caller to report.
local left = tonumber(ARGV[1])

local function seq_of(text)
  return tonumber(string.match(text, '^(%d+)'))
end

-- How many references of a list are at or before `seq`.
local function count_up_to(list, length, seq)
  local low, high = 0, length
  while low < high do
    local middle = math.floor((low + high) / 2)
    if seq_of(redis.call('LINDEX', list, middle)) <= seq then
      low = middle + 1
    else
      high = middle
    end
  end
  return low
end

local function newest_snapshot(snapshots, limit)
  local best
  for _, field in ipairs(redis.call('HKEYS', snapshots)) do
    local seq = tonumber(string.match(field, '^%d+$'))
    if seq and seq <= limit and (not best or seq > best) then
      best = seq
    end
  end
  if not best then
    return '', ''
  end
  local field = string.format('%.0f', best)
  return redis.call('HGET', snapshots, field) or '', field
end

local function nearest(states, snapshots, key, begin, limit)
  if begin == 'newest' or begin == 'stored' then
    local raw = redis.call('HGET', states, key)
    if raw and (begin == 'newest' or (seq_of(raw) or 0) <= limit) then
      return raw, ''
    end
  end
  local before = tonumber(string.match(begin, '^snapshot:(%d+)$'))
  return newest_snapshot(snapshots, before and math.min(limit, before - 1) or limit)
end

local function look(place)
  local states, snapshots, gone, index = KEYS[place], KEYS[place + 1], KEYS[place + 2], KEYS[place + 3]
  local key, begin, limit = ARGV[place + 1], ARGV[place + 2], tonumber(ARGV[place + 3])
  local raw, snapshot, after = '', '', tonumber(begin)
  if not after then
    raw, snapshot = nearest(states, snapshots, key, begin, limit)
    after = seq_of(raw) or 0
  end
  local length = redis.call('LLEN', index)
  local first = count_up_to(index, length, after)
  local count = count_up_to(index, length, limit) - first
  local taken = math.max(0, math.min(count, left, tonumber(ARGV[place + 4])))
  local references = {}
  if taken > 0 then
    references = redis.call('LRANGE', index, first, first + taken - 1)
    left = left - taken
  end
  return { raw, snapshot, redis.call('HGET', gone, key) or '', count, references }
end

local found = {}
for place = 1, #KEYS, 4 do
  found[#found + 1] = look(place)
end
return found
