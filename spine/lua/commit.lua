-- Commit the handling of events: for each unit acknowledgement, emitted events and writes, all or nothing; each unit
-- is refused alone. Everything is checked before the first write of a unit.
--@include _append.lua
--
-- KEYS: 1 meta, 2 seq, 3 clock, 4 streams, 5 producer; then what the arguments name by place.
-- ARGV: epoch, batch number, TTL of the batch's memory in ms;
--   the streams (see read_streams);
--   n events of all units: the places of all, six bytes each (see places), then the data of each;
--   n scopes, each: place of a lease or 0, its generation, consumer group, consumer;
--   n commands, each: the command, the type that its key must have;
--   n units: the heads of all (see read_unit), the heads of all their writes (see read_ops);
--   then for each unit: the reference by which it is held, unless it is held by nothing: an entry id, an item at the head
--     of a waiting list, or a member of the timetable; the text of its done record, where there is one, which how many
--     events the unit stored and the last number given by then complete; for each index list expected not to have moved
--     on: its place, the seq its last entry must not exceed; the arguments of its writes.
-- Returns: `first ts outcomes registered`; outcomes holds one letter for each unit: y stored, l lease lost, p no longer
--   pending (or, for one that only ends, maybe another of its stream in this call: all of these are acknowledged and
--   recorded), t a key holds another type, c the key has moved on since the state that was expected.

local epoch, batch, ttl = arg(), arg(), arg()
local known = guard_batch(epoch, batch)
if known then
  return known
end
read_streams()
local event_count, event_heads = num(), arg()
local before = at
at = at + event_count

local scopes = {}
for i = 1, num() do
  local lease, generation, group, consumer = num(), arg(), arg(), arg()
  local lost = lease > 0 and redis.call('HGET', KEYS[lease], 'gen') ~= generation
  scopes[i] = { lost = lost, group = group, consumer = consumer }
end
local commands = {}
for i = 1, num() do
  commands[i] = { arg(), arg() }
end
local unit_count, unit_heads, op_heads = num(), arg(), arg()
local ops_read, events_read = 0, 0

-- The writes of a unit, as run_op takes them: eight bytes each name the command, the place of its key, which of the
-- unit's events it goes with (from 1; 0 for none) and how many arguments it has.
local NO_OPS, answers = {}, false
local function read_ops(count)
  if count == 0 then
    return NO_OPS
  end
  local ops = {}
  for i = 1, count do
    local a, b, c, d, e, f, g, h = byte(op_heads, ops_read * 8 + 1, ops_read * 8 + 8)
    ops_read = ops_read + 1
    local command, values = commands[a * 256 + b], {}
    answers = answers or command[1] == 'answer'
    for j = 1, g * 256 + h do
      values[j] = arg()
    end
    ops[i] = { command[1], c * 256 + d, command[2], e * 256 + f, values }
  end
  return ops
end

-- What one XACK acknowledges: by consumer group and stream the ids of its entries. `only` are the units that end with
-- nothing but that.
local acks, ack_order = {}, {}
local function acknowledge(scope, source, id)
  local where = scope * 65536 + source
  local ack = acks[where]
  if not ack then
    ack = { key = KEYS[source], group = scopes[scope].group, ids = {}, only = {} }
    acks[where] = ack
    ack_order[#ack_order + 1] = ack
  end
  ack.ids[#ack.ids + 1] = id
  return ack
end

-- The done records of the call, field and text in turn, by the place of their key.
local records, record_places = {}, {}
local function record(done, id, text, stored)
  local fields = records[done]
  if not fields then
    fields = {}
    records[done] = fields
    record_places[#record_places + 1] = done
  end
  fields[#fields + 1] = match(id, '^%d+')
  fields[#fields + 1] = text .. stored
end

-- The last number given before this call.
local given
local function given_before()
  given = given or tonumber(redis.call('GET', KEYS[2]) or '0')
  return given
end

local outcomes, nothing_stored = {}, nil

-- A unit that stores and writes nothing but that it is done: whether its event was pending its XACK tells.
local function end_only(i, scope, source, done)
  local id, text = arg(), arg()
  if scopes[scope].lost then
    outcomes[i] = 'l'
  elseif holds_other(done, 'hash') then
    outcomes[i] = 't'
  else
    outcomes[i] = 'y'
    local only = acknowledge(scope, source, id).only
    only[#only + 1] = i
    nothing_stored = nothing_stored or format('0\t%d', given_before())
    record(done, id, text, nothing_stored)
  end
end

-- Two bytes each: how it is held, its scope, the place of what it is held in, the place of its done record or 0, how
-- many index lists are expected, how many events and how many writes it has. Returns nil for one that is ended already.
local NONE, PENDING, WAITING, HEAD, DUE, CARRIED = 0, 1, 2, 3, 4, 5
local function read_unit(i)
  local a, b, c, d, e, f, g, h, j, k, l, m, n, o = byte(unit_heads, i * 14 - 13, i * 14)
  local held, done, expects, events, ops = a * 256 + b, g * 256 + h, j * 256 + k, l * 256 + m, n * 256 + o
  local scope, source = c * 256 + d, e * 256 + f
  if held == PENDING and done > 0 and expects + events + ops == 0 then
    return end_only(i, scope, source, done)
  end
  local unit = {
    held = held, scope = scope, source = source, id = held ~= NONE and arg(), done = done, text = done > 0 and arg(),
    expected = {}, events = events, first_event = events_read, place = i,
  }
  for x = 1, expects do
    unit.expected[x] = { KEYS[num()], num() }
  end
  unit.ops = read_ops(ops)
  events_read = events_read + events
  return unit
end

-- Index lists that earlier units of this call add to.
local moved = {}

local function is_pending(unit)
  local pending = redis.pcall('XPENDING', KEYS[unit.source], scopes[unit.scope].group, unit.id, unit.id, 1)
  return not pending.err and #pending > 0
end

-- Take the event that the handler of the unit had from a ring, unless it was taken meanwhile.
local function take(unit)
  if is_pending(unit) then
    return true
  end
  local scope = scopes[unit.scope]
  local read = redis.pcall(
    'XREADGROUP', 'GROUP', scope.group, scope.consumer, 'COUNT', '1', 'STREAMS', KEYS[unit.source], '>'
  )
  return read and not read.err and read[1][2][1][1] == unit.id
end

local function check(unit)
  local held = unit.held
  if scopes[unit.scope].lost then
    return 'l'
  end
  -- To take an event is a write, but none that has to be taken back where the unit is refused: it is pending then, as any
  -- other, and not in the way of those behind it in its stream, whose commits are to take them.
  if held == CARRIED then
    if not take(unit) then
      return 'p'
    end
  elseif held == PENDING then
    if not is_pending(unit) then
      return 'p'
    end
  elseif (held == WAITING or held == HEAD) and redis.call('LINDEX', KEYS[unit.source], 0) ~= unit.id then
    return 'p'
  elseif held == DUE and not redis.call('ZSCORE', KEYS[unit.source], unit.id) then
    return 'p'
  end
  for _, expected in ipairs(unit.expected) do
    local latest = redis.call('LINDEX', expected[1], -1)
    if moved[expected[1]] or (latest and tonumber(match(latest, '^%d+')) > expected[2]) then
      return 'c'
    end
  end
  if unit.done > 0 and holds_other(unit.done, 'hash') then
    return 't'
  end
  for _, op in ipairs(unit.ops) do
    local delivers = op[1] == 'answer' or op[1] == 'part'
    if holds_other(op[2], op[3]) or (delivers and holds_other(tonumber(op[5][1]), 'stream')) then
      return 't'
    end
  end
  return 'y'
end

-- Append the events at these places of the arguments: the numbers follow `first`. When an entry is refused, what this
-- call wrote is taken out again: all or nothing.
local function append(accepted, first, ts)
  local function undo_all(n)
    for i = n, 1, -1 do
      local stream, by_key, by_correlation = places(event_heads, accepted[i] * 6 - 5)
      undo(stream, by_key, by_correlation, format('%d', first + i - 1), 3)
    end
  end
  local used = {}
  for i, place in ipairs(accepted) do
    local stream, by_key, by_correlation = places(event_heads, place * 6 - 5)
    used[stream] = true
    local failed = put(stream, by_key, by_correlation, format('%d', first + i - 1), ts, ARGV[before + place])
    if failed then
      undo_all(i - 1)
      return failed
    end
  end
  local alone = #accepted == 1 and not answers and ARGV[before + accepted[1]] -- the one who asked is told otherwise
  local failed = ring(used, first + #accepted - 1, ts, alone)
  if failed then
    undo_all(#accepted)
  end
  return failed
end

-- Give up the handled event.
local function give_up(unit)
  local held = unit.held
  if held == PENDING or held == CARRIED then
    acknowledge(unit.scope, unit.source, unit.id)
  elseif held == WAITING then
    redis.call('LPOP', KEYS[unit.source])
  elseif held == DUE then
    redis.call('ZREM', KEYS[unit.source], unit.id)
  end
end

local units, accepted = {}, {}
for i = 1, unit_count do
  local unit = read_unit(i)
  if unit then
    outcomes[i] = check(unit)
  end
  if unit and outcomes[i] == 'y' then
    units[#units + 1] = unit
    unit.offset = #accepted
    for place = unit.first_event + 1, unit.first_event + unit.events do
      accepted[#accepted + 1] = place
      local _, by_key = places(event_heads, place * 6 - 5)
      moved[KEYS[by_key]] = true
    end
  end
end

local ts = stamp()
local first, registered = 0, ''
if #accepted > 0 then
  given = redis.call('INCRBY', KEYS[2], #accepted) - #accepted
  first = given + 1
  registered = register()
  local failed = append(accepted, first, ts)
  if failed then
    return failed
  end
end

for _, unit in ipairs(units) do
  give_up(unit)
  for _, op in ipairs(unit.ops) do
    local place = op[4]
    if place > 0 then
      run_op(op, format('%d', first + unit.offset + place - 1), ARGV[before + unit.first_event + place], ts)
    else
      run_op(op, nil, nil, ts)
    end
  end
  if unit.done > 0 then
    record(unit.done, unit.id, unit.text, format('%d\t%d', unit.events, given_before() + unit.offset + unit.events))
  end
end
for _, ack in ipairs(ack_order) do
  local acknowledged = call('XACK', ack.key, ack.group, unpack(ack.ids))
  if acknowledged ~= #ack.ids then -- of those that were looked up before, none is missing
    for _, i in ipairs(ack.only) do
      outcomes[i] = 'p'
    end
  end
end
for _, place in ipairs(record_places) do
  redis.call('HSET', KEYS[place], unpack(records[place]))
end
ring_inboxes()
local reply = format('%d ', first) .. ts .. ' ' .. (unit_count > 0 and table.concat(outcomes) or '-')
  .. ' ' .. (registered ~= '' and registered or '-')
remember_batch(batch, ttl, reply)
return reply
