-- Take entries of one partition for a consumer group, if the lease is still of this generation.
--
-- KEYS: 1 lease, 2 seq, 3 bell, then streams, the most urgent first
-- ARGV: generation, group, consumer, id of the last ring heard, bytes (in all; a little more may come), budget (entries)
--   of lane 0, 1 and 2, for each stream: id that a new group starts after, its lane, how many of its lane are left
--   (itself included), '1' to read one beyond the budget, '>' or an id (pending entries after it)
-- Returns: 0 when the lease is lost, else {counter, time in ms, rings since (newest first), answer for each stream};
--   an answer is {created, read, entries}: created is 1 when the group had to be made now; read is 0 when the stream was
--   not read, 1 when it was read to its end and 2 when there may be more; entries is false when there are none.
local FIRST_PAGE = 32 -- sizes are not known before entries are read: the next page is larger when these are small

if redis.call('HGET', KEYS[1], 'gen') ~= ARGV[1] then
  return 0
end
local group, consumer = ARGV[2], ARGV[3]
local room = tonumber(ARGV[5])
local budgets = { ['0'] = tonumber(ARGV[6]), ['1'] = tonumber(ARGV[7]), ['2'] = tonumber(ARGV[8]) }

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

local answers = {}
for i = 4, #KEYS do
  local key = KEYS[i]
  local at = 8 + (i - 4) * 5
  local lane = ARGV[at + 2]
  local count = math.floor(budgets[lane] / tonumber(ARGV[at + 3]))
  if room <= 0 then
    count = 0
  end
  if count < 1 then
    count = ARGV[at + 4] == '1' and 1 or 0
  end
  local created, state, entries = 0, 0, false
  if count > 0 then
    entries, state = read(key, count, ARGV[at + 5])
    if entries.err then
      if string.sub(entries.err, 1, 7) ~= 'NOGROUP' then
        return redis.error_reply('SPINEBLOCKED ' .. key .. ' ' .. entries.err)
      end
      entries, state = {}, 1
      if redis.call('EXISTS', key) == 1 then
        redis.call('XGROUP', 'CREATE', key, group, ARGV[at + 1])
        created = 1
        entries, state = read(key, count, ARGV[at + 5])
      end
    end
    budgets[lane] = budgets[lane] - #entries
    entries = #entries > 0 and entries
  end
  answers[#answers + 1] = { created, state, entries }
end
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local rings = redis.call('XREVRANGE', KEYS[3], '+', '(' .. ARGV[4], 'COUNT', '100')
return { redis.call('GET', KEYS[2]) or '0', now, rings, answers }
