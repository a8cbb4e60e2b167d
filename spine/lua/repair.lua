-- Take stray entries out of a stream, so that the log's own next number is accepted again. Consumer groups keep their
-- place, their consumers and what is pending.
--
-- A stream whose last id is beyond the counter is written anew: since Redis 7 a deleted entry's id is remembered, and
-- XSETID refuses to go below it. The copy replaces the stream only when it is complete.
--
-- KEYS: 1 seq, 2 stream, 3 scratch, 4 meta, 5 epochs
-- ARGV: what the counter must at least be; id of a new epoch or '': then every client looks at everything again, which
--   those need who have heard a stray entry of this stream and would hear nothing lower any more; ids of the strays
-- Returns: how many entries were taken out; 1 when the stream was written anew.
local PAGE = 500
local MOST_FIELDS = 4000 -- beyond that unpack fails; an event of ours has one field

local counter = tonumber(redis.call('GET', KEYS[1]) or '0')
if tonumber(ARGV[1]) > counter then
  redis.call('SET', KEYS[1], ARGV[1])
  counter = tonumber(ARGV[1])
end

local function number_of(id)
  return tonumber(string.match(id, '^(%d+)'))
end

local function map_of(flat)
  local map = {}
  for i = 1, #flat, 2 do
    map[flat[i]] = flat[i + 1]
  end
  return map
end

local strays, count = {}, 0
for i = 3, #ARGV do
  if string.sub(ARGV[i], -2) ~= '-0' or number_of(ARGV[i]) > counter then
    strays[ARGV[i]] = true
  end
end

if redis.call('EXISTS', KEYS[2]) == 0 then
  return { 0, 0 }
end
local groups = redis.call('XINFO', 'GROUPS', KEYS[2])

local function take_out()
  for id in pairs(strays) do
    count = count + redis.call('XDEL', KEYS[2], id)
    for _, group in ipairs(groups) do
      redis.call('XACK', KEYS[2], map_of(group).name, id)
    end
  end
end

local function copy_entries()
  local top, start = '0-0', '-'
  while true do
    local page = redis.call('XRANGE', KEYS[2], start, '+', 'COUNT', PAGE)
    for _, entry in ipairs(page) do
      if strays[entry[1]] or #entry[2] > MOST_FIELDS then
        count = count + 1
      else
        redis.call('XADD', KEYS[3], entry[1], unpack(entry[2]))
        top = entry[1]
      end
    end
    if #page < PAGE then
      return top
    end
    start = '(' .. page[#page][1]
  end
end

local function copy_pending(name)
  local start = '-'
  while true do
    local page = redis.call('XPENDING', KEYS[2], name, start, '+', PAGE)
    for _, item in ipairs(page) do
      if not strays[item[1]] then
        redis.call('XCLAIM', KEYS[3], name, item[2], 0, item[1], 'IDLE', item[3], 'RETRYCOUNT', item[4], 'FORCE', 'JUSTID')
      end
    end
    if #page < PAGE then
      return
    end
    start = '(' .. page[#page][1]
  end
end

local function copy_group(group, top)
  local delivered = group['last-delivered-id']
  if number_of(delivered) > counter then
    delivered = top
  end
  redis.call('XGROUP', 'CREATE', KEYS[3], group.name, delivered, 'MKSTREAM')
  for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[2], group.name)) do
    redis.call('XGROUP', 'CREATECONSUMER', KEYS[3], group.name, map_of(consumer).name)
  end
  copy_pending(group.name)
end

local function write_anew()
  redis.call('DEL', KEYS[3])
  local top = copy_entries()
  for _, group in ipairs(groups) do
    copy_group(map_of(group), top)
  end
  if redis.call('EXISTS', KEYS[3]) == 1 then
    redis.call('RENAME', KEYS[3], KEYS[2])
  else
    redis.call('DEL', KEYS[2])
  end
end

if number_of(map_of(redis.call('XINFO', 'STREAM', KEYS[2]))['last-generated-id']) <= counter then
  take_out()
  return { count, 0 }
end
local done, failure = pcall(write_anew)
if not done then
  redis.call('DEL', KEYS[3])
  return redis.error_reply('SPINEREPAIR ' .. (type(failure) == 'table' and failure.err or tostring(failure)))
end
if ARGV[2] ~= '' then
  local time = redis.call('TIME')
  local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
  local run = redis.call('HGET', KEYS[4], 'run_id') or ''
  redis.call('HSET', KEYS[4], 'epoch', ARGV[2])
  redis.call('RPUSH', KEYS[5], ARGV[2] .. ' ' .. string.format('%.0f', counter) .. ' ' .. run .. ' ' .. now)
end
return { count, 1 }
