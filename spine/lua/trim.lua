-- Take the events of one partition up to a seq out of the log, with everything that names them: all at once.
--
-- KEYS: 1 floors (hash), 2 what is gone of each key (hash); then what the arguments count: streams; index lists of keys;
--   index lists of correlations; done records; for each base the states and the snapshots of the key (two hashes)
-- ARGV: partition, floor as the caller knows it ('' for none), seq to trim up to;
--   n streams; n keys, each: key, its last seqs (`seq:stream` joined by commas); n correlations, each: n, references;
--   n done records; n bases, each: key, the last seq that goes of what this state folds
-- Returns: how many entries were taken out, -1 when the floor is another one (somebody else trims).
local at, place = 0, 2
local function arg()
  at = at + 1
  return ARGV[at]
end
local function key()
  place = place + 1
  return KEYS[place]
end
local function seq_of(text)
  return tonumber(string.match(text, '^(%d+)'))
end

local partition, known, limit = arg(), arg(), arg()
if (redis.call('HGET', KEYS[1], partition) or '') ~= known then
  return -1
end
local number = tonumber(limit)

-- What was gone before and what goes now, the later seq of each stream.
local function merged(before, now)
  local last, order = {}, {}
  for _, text in ipairs({ before or '', now }) do
    for seq, stream in string.gmatch(text, '(%d+):(%d+)') do
      if not last[stream] then
        order[#order + 1] = stream
      end
      last[stream] = seq
    end
  end
  local parts = {}
  for i, stream in ipairs(order) do
    parts[i] = last[stream] .. ':' .. stream
  end
  return table.concat(parts, ',')
end

local function keep_base(states, snapshots, name, last)
  local raw = redis.call('HGET', states, name)
  if raw and seq_of(raw) == last then
    redis.call('HSET', snapshots, string.format('%.0f', last), raw)
  end
  for _, field in ipairs(redis.call('HKEYS', snapshots)) do
    if (tonumber(field) or 0) < last then
      redis.call('HDEL', snapshots, field)
    end
  end
end

local count = 0
for _ = 1, tonumber(arg()) do
  count = count + redis.call('XTRIM', key(), 'MINID', string.format('%.0f', number + 1))
end
for _ = 1, tonumber(arg()) do
  local name, last, index = arg(), arg(), key()
  while true do
    local head = redis.call('LINDEX', index, 0)
    if not head or seq_of(head) > number then
      break
    end
    redis.call('LPOP', index)
  end
  redis.call('HSET', KEYS[2], name, merged(redis.call('HGET', KEYS[2], name), last))
end
for _ = 1, tonumber(arg()) do
  local index = key()
  for _ = 1, tonumber(arg()) do
    redis.call('LREM', index, 1, arg())
  end
end
for _ = 1, tonumber(arg()) do
  redis.call('UNLINK', key())
end
for _ = 1, tonumber(arg()) do
  keep_base(key(), key(), arg(), tonumber(arg()))
end
redis.call('HSET', KEYS[1], partition, limit)
return count
