-- Commit the handling of events: for each unit acknowledgement, emitted events and writes, all or nothing; each unit
-- is refused alone. Everything is checked before the first write.
--@include _append.lua
--
-- KEYS: 1 meta, 2 seq, 3 clock, 4 streams, 5 producer; then what the arguments name by place.
-- ARGV: epoch, batch number, TTL of the batch's memory in ms;
--   n streams, each: place of its key, `lane/topic`, its number or '', place of its bell, partition;
--   n units, each: place of the lease or 0, its generation; how the handled event is held: 'pending' (place of its
--     stream, consumer group, entry id), 'waiting' or 'head' (place of the waiting list, reference at its head, which
--     it leaves or stays at), 'due' (place of the timetable, member) or 'none';
--     expected: n, each: place of an index list, the seq its last entry must not exceed;
--     n events (see read_event), n writes (see read_op; beside these `done` keeps a done record: its arguments are the
--     field and the text, which how many events the unit stored and the last number given by then complete).
-- Returns: `first ts outcomes registered`; outcomes holds one letter for each unit: y stored, l lease lost, p no longer
--   pending, t a key holds another type, c the key has moved on since the state that was expected.

local epoch, batch, ttl = arg(), arg(), arg()
local known = guard_batch(epoch, batch)
if known then
  return known
end
local streams = read_streams()

local function read_unit()
  local unit = { lease = num(), generation = arg(), held = arg(), events = {}, ops = {}, expected = {} }
  if unit.held == 'pending' then
    unit.source, unit.group, unit.id = KEYS[num()], arg(), arg()
  elseif unit.held ~= 'none' then
    unit.source, unit.id = KEYS[num()], arg()
  end
  for i = 1, num() do
    unit.expected[i] = { KEYS[num()], num() }
  end
  for i = 1, num() do
    unit.events[i] = read_event()
  end
  for i = 1, num() do
    unit.ops[i] = read_op()
  end
  return unit
end

local generations = {}
local function generation(place)
  if generations[place] == nil then
    generations[place] = redis.call('HGET', KEYS[place], 'gen') or ''
  end
  return generations[place]
end

-- Index lists that earlier units of this call add to.
local moved = {}

local function check(unit)
  if unit.lease > 0 and generation(unit.lease) ~= unit.generation then
    return 'l'
  end
  if unit.held == 'pending' then
    local pending = redis.pcall('XPENDING', unit.source, unit.group, unit.id, unit.id, 1)
    if pending.err or #pending == 0 then
      return 'p'
    end
  elseif (unit.held == 'waiting' or unit.held == 'head') and redis.call('LINDEX', unit.source, 0) ~= unit.id then
    return 'p'
  elseif unit.held == 'due' and not redis.call('ZSCORE', unit.source, unit.id) then
    return 'p'
  end
  for _, expected in ipairs(unit.expected) do
    local latest = redis.call('LINDEX', expected[1], -1)
    if moved[expected[1]] or (latest and tonumber(string.match(latest, '^%d+')) > expected[2]) then
      return 'c'
    end
  end
  for _, op in ipairs(unit.ops) do
    if wrong_type(op) then
      return 't'
    end
  end
  return 'y'
end

local units, outcomes, events = {}, {}, {}
for i = 1, num() do
  local unit = read_unit()
  units[i] = unit
  outcomes[i] = check(unit)
  if outcomes[i] == 'y' then
    unit.offset = #events
    for _, event in ipairs(unit.events) do
      events[#events + 1] = event
      moved[KEYS[event[2]]] = true
    end
  end
end

local ts = stamp()
local given, first, registered = tonumber(redis.call('GET', KEYS[2]) or '0'), 0, ''
if #events > 0 then
  first = redis.call('INCRBY', KEYS[2], #events) - #events + 1
  registered = register(streams)
  local failed = append(streams, events, first, ts)
  if failed then
    return failed
  end
end
for i, unit in ipairs(units) do
  if outcomes[i] == 'y' then
    if unit.held == 'pending' then
      redis.call('XACK', unit.source, unit.group, unit.id)
    elseif unit.held == 'waiting' then
      redis.call('LPOP', unit.source)
    elseif unit.held == 'due' then
      redis.call('ZREM', unit.source, unit.id)
    end
    for _, op in ipairs(unit.ops) do
      if op[1] == 'done' then
        local position = string.format('%d\t%.0f', #unit.events, given + unit.offset + #unit.events)
        redis.call('HSET', KEYS[op[2]], op[5][1], op[5][2] .. position)
      else
        run_op(op, unit.events, first + unit.offset, ts)
      end
    end
  end
end
local reply = string.format('%.0f ', first) .. ts .. ' ' .. (#units > 0 and table.concat(outcomes) or '-')
  .. ' ' .. (registered ~= '' and registered or '-')
remember_batch(batch, ttl, reply)
return reply
