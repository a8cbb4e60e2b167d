-- Assign the next numbers and append events over any streams of the namespace: all or nothing, once for each batch.
--@include _append.lua
--
-- KEYS: 1 meta, 2 seq, 3 clock, 4 streams, 5 producer; then streams, bells, index lists, dedupe keys, keys of writes.
-- ARGV: epoch, batch number, TTL of the batch's memory in ms;
--   the streams (see read_streams);
--   n events: the places of all, six bytes each (see places), then the data of each;
--   n dedupe keys, each: which event, place of its key, window in ms;
--   n writes (see read_op).
-- Returns: `first ts skipped registered`: the first number given, the time stamped, the events that were stored before
--   under their dedupe key (`place=seq:stream:ts` joined by commas, or -), the numbers of streams that the client did
--   not know (`place=number` joined by commas, or -).

local epoch, batch, ttl = arg(), arg(), arg()
local known = guard_batch(epoch, batch)
if known then
  return known
end
read_streams()
local count, heads = num(), arg()
local before = at
at = at + count

local skipped, skip, remember, seen = {}, {}, {}, {}
for _ = 1, num() do
  local place, key, window = num(), KEYS[num()], arg()
  local stored = redis.call('GET', key)
  if stored then
    skip[place] = true
    skipped[#skipped + 1] = place .. '=' .. stored
  elseif seen[key] then
    skip[place] = true
    skipped[#skipped + 1] = place .. '=@' .. seen[key]
  else
    seen[key] = place
    remember[#remember + 1] = { place, key, window }
  end
end
-- The places among all events of those that are stored now; all of them where nothing is deduplicated.
local fresh, offset
if #skipped > 0 then
  fresh, offset = {}, {}
  for place = 1, count do
    if not skip[place] then
      fresh[#fresh + 1] = place
      offset[place] = #fresh
    end
  end
end
local fresh_count = fresh and #fresh or count

-- Take out again what was written of the first `n` events.
local function undo_all(first, n)
  for i = n, 1, -1 do
    local stream, by_key, by_correlation = places(heads, (fresh and fresh[i] or i) * 6 - 5)
    undo(stream, by_key, by_correlation, string.format('%d', first + i - 1), 3)
  end
end

local function store(first, ts)
  for i = 1, fresh_count do
    local place = fresh and fresh[i] or i
    local stream, by_key, by_correlation = places(heads, place * 6 - 5)
    local failed = put(stream, by_key, by_correlation, format('%d', first + i - 1), ts, ARGV[before + place])
    if failed then
      undo_all(first, i - 1)
      return failed
    end
  end
  local used
  if fresh then
    used = {}
    for i = 1, fresh_count do
      used[(places(heads, fresh[i] * 6 - 5))] = true
    end
  end
  local alone = fresh_count == 1 and ARGV[before + (fresh and fresh[1] or 1)]
  local failed = ring(used, first + fresh_count - 1, ts, alone)
  if failed then
    undo_all(first, fresh_count)
  end
  return failed
end

local ops = {}
for i = 1, num() do
  ops[i] = read_op()
  if holds_other(ops[i][2], ops[i][3]) then
    return redis.error_reply('SPINEBLOCKED ' .. KEYS[ops[i][2]] .. ' holds another type')
  end
end

local first = redis.call('INCRBY', KEYS[2], fresh_count) - fresh_count + 1
local ts = stamp()
local registered = register()
if fresh_count > 0 then
  local failed = store(first, ts)
  if failed then
    return failed
  end
end
for _, item in ipairs(remember) do
  local seq = first + (offset and offset[item[1]] or item[1]) - 1
  local sid = sids[(places(heads, item[1] * 6 - 5))]
  redis.call('SET', item[2], string.format('%d:', seq) .. sid .. ':' .. ts, 'PX', item[3])
end
for _, op in ipairs(ops) do
  local place = op[4]
  if place == 0 then
    run_op(op, nil, nil, ts)
  elseif not skip[place] then
    run_op(op, format('%d', first + (offset and offset[place] or place) - 1), ARGV[before + place], ts)
  end
end
ring_inboxes()
local reply = string.format('%d ', first) .. ts .. ' ' .. (#skipped > 0 and table.concat(skipped, ',') or '-')
  .. ' ' .. (registered ~= '' and registered or '-')
remember_batch(batch, ttl, reply)
return reply
