-- Assign the next numbers and append events over any streams of the namespace: all or nothing, once for each batch.
--@include _append.lua
--
-- KEYS: 1 meta, 2 seq, 3 clock, 4 streams, 5 producer; then streams, bells, index lists, dedupe keys, keys of writes.
-- ARGV: epoch, batch number, TTL of the batch's memory in ms;
--   n streams, each: place of its key, `lane/topic`, its number or '', place of its bell;
--   n events, each: head, data (see read_event);
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
local streams = read_streams()
local events = {}
for i = 1, num() do
  events[i] = read_event()
end

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
local fresh, offset = {}, {}
for i, event in ipairs(events) do
  if not skip[i] then
    fresh[#fresh + 1] = event
    offset[i] = #fresh
  end
end

local ops = {}
for i = 1, num() do
  ops[i] = read_op()
  if wrong_type(ops[i]) then
    return redis.error_reply('SPINEBLOCKED ' .. KEYS[ops[i][2]] .. ' holds another type')
  end
end

local last = redis.call('INCRBY', KEYS[2], #fresh)
local first = last - #fresh + 1
local ts = stamp()
local registered = register(streams)
if #fresh > 0 then
  local failed = append(streams, fresh, first, ts)
  if failed then
    return failed
  end
end
for _, item in ipairs(remember) do
  local place = item[1]
  local stream = streams[events[place][1]]
  redis.call('SET', item[2], string.format('%.0f:', first + offset[place] - 1) .. stream.sid .. ':' .. ts, 'PX', item[3])
end
for _, op in ipairs(ops) do
  run_op(op, fresh, first, ts)
end
local reply = string.format('%.0f ', first) .. ts .. ' ' .. (#skipped > 0 and table.concat(skipped, ',') or '-')
  .. ' ' .. (registered ~= '' and registered or '-')
remember_batch(batch, ttl, reply)
return reply
