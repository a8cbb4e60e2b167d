-- Take entries of some partitions for a consumer group, from each whose lease is still of its generation.
-- A recovery brings to hand what is pending. A call that was sent before it and arrives after it takes nothing: what it
-- took nobody would know of.
--
-- KEYS: 1 seq; then for each partition: lease, bell, streams, the most urgent first
-- ARGV: group, n partitions, for each: generation, number of this holder's last recovery, consumer, id of the last ring
--   heard, bytes (in all; a little more may come), budget (entries) of lane 0, 1 and 2, n streams, for each: id that a
--   new group starts after, its lane, how many of its lane are left (itself included), '1' to read one beyond the
--   budget, '>' or an id (pending entries after it)
-- Returns: {counter, time in ms, answer for each partition}; an answer is 0 when the lease is lost, text when an error
--   keeps the partition from being read, else {rings since (newest first), {group, read, entries} for each stream}:
--   group is 0 when there was one, 1 when it had to be made now, and 2 when there is no stream yet; read is 0 when the
--   stream was not read, 1 when it was read to its end and 2 when there may be more; entries is false when there are none.
local THERE, MADE, NO_STREAM = 0, 1, 2
local FIRST_PAGE = 32 -- sizes are not known before entries are read: the next page is larger when these are small

local at = 2
local function arg()
  at = at + 1
  return ARGV[at]
end
local function num()
  at = at + 1
  return tonumber(ARGV[at])
end
local group, consumer, room, budgets = ARGV[1], nil, 0, nil

local function size_of(page)
  local size = 0
  for i = 1, #page do
    local fields = page[i][2]
    if fields then
      for j = 2, #fields, 2 do
        size = size + #fields[j]
      end
    end
  end
  return size
end

-- Returns the entries of the next page, or an error.
local function read_page(key, count, from)
  local found = redis.pcall('XREADGROUP', 'GROUP', group, consumer, 'COUNT', count, 'STREAMS', key, from)
  if not found then
    return {}
  end
  return found.err and found or found[1][2]
end

local function read(key, count, from)
  local entries = read_page(key, math.min(count, FIRST_PAGE), from)
  if entries.err then
    return entries
  end
  local asked = math.min(count, FIRST_PAGE)
  local last = #entries
  local size = last > 0 and size_of(entries) or 0
  room = room - size
  while last == asked and #entries < count and room > 0 do
    asked = math.min(count - #entries, 4 * asked, math.max(1, math.floor(room / (size / #entries + 1))))
    local page = read_page(key, asked, from == '>' and from or entries[#entries][1])
    last = #page
    local more = size_of(page)
    size, room = size + more, room - more
    for i = 1, last do
      entries[#entries + 1] = page[i]
    end
  end
  return entries, last == asked and 2 or 1
end

-- Returns the answer for one stream, or an error.
local function take_stream(key)
  local start, lane, left, must, from = arg(), arg(), num(), arg(), arg()
  local count = room > 0 and math.floor(budgets[lane] / left) or 0
  if count < 1 then
    if must ~= '1' then
      return { THERE, 0, false }
    end
    count = 1
  end
  local state_of_group = THERE
  local entries, state = read(key, count, from)
  if entries.err and string.sub(entries.err, 1, 7) == 'NOGROUP' then
    entries, state, state_of_group = {}, 1, NO_STREAM
    if redis.call('EXISTS', key) == 1 then
      redis.call('XGROUP', 'CREATE', key, group, start)
      state_of_group = MADE
      entries, state = read(key, count, from)
    end
  end
  if entries.err then
    return entries
  end
  budgets[lane] = budgets[lane] - #entries
  return { state_of_group, state, #entries > 0 and entries }
end

-- Without the events that rings carry: these are among the entries.
local function rings_since(bell, heard)
  local rings = redis.call('XREVRANGE', bell, '+', '(' .. heard, 'COUNT', '100')
  for i = 1, #rings do
    local fields = rings[i][2]
    fields[3], fields[4] = nil, nil
  end
  return rings
end

local place = 2
local function take_partition()
  local lease, bell, first = KEYS[place], KEYS[place + 1], place + 2
  local generation, recovery, heard
  generation, recovery, consumer, heard, room = arg(), num(), arg(), arg(), num()
  budgets = { ['0'] = num(), ['1'] = num(), ['2'] = num() }
  local count = num()
  local next_partition = at + 5 * count
  place = first + count
  local answer = { false }
  local held = redis.call('HMGET', lease, 'gen', 'recovery')
  local recovered = tonumber(held[2] or '0')
  if held[1] ~= generation or recovery < recovered then
    answer = 0
  else
    if recovery > recovered then
      redis.call('HSET', lease, 'recovery', recovery)
    end
    for i = first, first + count - 1 do
      local found = take_stream(KEYS[i])
      if found.err then
        answer = 'SPINEBLOCKED ' .. KEYS[i] .. ' ' .. found.err
        break
      end
      answer[#answer + 1] = found
    end
    if type(answer) == 'table' then
      answer[1] = rings_since(bell, heard)
    end
  end
  at = next_partition
  return answer
end

local answers = { redis.call('GET', KEYS[1]) or '0', false }
for _ = 1, tonumber(ARGV[2]) do
  answers[#answers + 1] = take_partition()
end
local time = redis.call('TIME')
answers[2] = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
return answers
