-- Shared by append.lua and commit.lua: reading the arguments, guarding a batch, appending events, running plain writes.
--
-- Every key is in KEYS; arguments name a key by its place there.

local call, format, byte, match = redis.pcall, string.format, string.byte, string.match
local at = 0
local function arg()
  at = at + 1
  return ARGV[at]
end
local function num()
  at = at + 1
  return tonumber(ARGV[at])
end

local function entry_id(seq)
  return string.format('%d-0', seq)
end

-- The server's time in ms, never less than what was stamped before.
local function stamp()
  local time = redis.call('TIME')
  local now = string.format('%d', time[1] * 1000 + math.floor(time[2] / 1000))
  local last = redis.call('SET', KEYS[3], now, 'GET')
  if last and tonumber(last) > tonumber(now) then
    redis.call('SET', KEYS[3], last)
    return last
  end
  return now
end

-- An error when the namespace is not the one that the client opened, the reply of this very batch when it was stored
-- before (its reply was lost on the way), else nil.
local function guard_batch(epoch, batch)
  if redis.call('HGET', KEYS[1], 'epoch') ~= epoch then
    return redis.error_reply('SPINEEPOCH the namespace is not the one that was opened')
  end
  local last = redis.call('GET', KEYS[5])
  if last then
    local number, reply = match(last, '^(%d+) (.*)$')
    if number == batch then
      return reply
    elseif tonumber(number) > tonumber(batch) then
      return redis.error_reply('SPINESTALE a later batch of this producer is stored')
    end
  end
  return nil
end

local function remember_batch(batch, ttl, reply)
  redis.call('SET', KEYS[5], batch .. ' ' .. reply, 'PX', ttl)
end

-- The streams that the events go to, by their places: key, bell, partition, number. A list for each, as a table for each
-- stream costs more than all else that is done for one. Numbers are kept as text, as they are written into many entries.
local stream_keys, bells, partitions, sids, unnumbered = {}, {}, {}, {}, {}

-- Read them: ten bytes each, two of the place of its key, of its bell and of its partition, four of its number: 0 where
-- the client does not know it, its name follows then.
local function read_streams()
  local count, heads = num(), arg()
  local texts, at = {}, 1
  for i = 1, count do
    local a, b, c, d, e, f, g, h, j, k = byte(heads, at, at + 9)
    at = at + 10
    local partition, number = e * 256 + f, ((g * 256 + h) * 256 + j) * 256 + k
    local text = texts[partition]
    if not text then
      text = format('%d', partition)
      texts[partition] = text
    end
    stream_keys[i], bells[i], partitions[i] = KEYS[a * 256 + b], KEYS[c * 256 + d], text
    if number > 0 then
      sids[i] = format('%d', number)
    else
      sids[i] = ''
      unnumbered[#unnumbered + 1] = { i, arg() }
    end
  end
end

-- Give a number to each stream that the client does not know. Returns them as `place=sid` pairs joined by commas.
local function register()
  local told = {}
  for _, stream in ipairs(unnumbered) do
    local i, name = stream[1], stream[2]
    local sid = redis.call('HGET', KEYS[4], name)
    if not sid then
      sid = format('%d', redis.call('HLEN', KEYS[4]) + 1)
      redis.call('HSET', KEYS[4], name, sid)
    end
    sids[i] = sid
    told[#told + 1] = i .. '=' .. sid
  end
  return table.concat(told, ',')
end

-- Ring the bell of each partition touched: `used[i]` tells whether stream i got an event (all did where it is nil). An
-- event that is appended alone is carried along, unless it is large: who hears of it need not fetch it. It rings when all
-- is stored: who hears may begin at once.
local CARRIED_BYTES = 4096
local function ring(used, last, ts, alone)
  local touched, order = {}, {}
  for i = 1, #bells do
    if not used or used[i] then
      local bell = bells[i]
      local list = touched[bell]
      if not list then
        list = {}
        touched[bell] = list
        order[#order + 1] = bell
      end
      list[#list + 1] = sids[i]
    end
  end
  for _, bell in ipairs(order) do
    local numbers, rung = table.concat(touched[bell], ',')
    if alone and #alone <= CARRIED_BYTES then
      rung = redis.pcall('XADD', bell, 'MAXLEN', '~', '100', entry_id(last), 's', numbers, ts, alone)
    else
      rung = redis.pcall('XADD', bell, 'MAXLEN', '~', '100', entry_id(last), 's', numbers)
    end
    if type(rung) == 'table' and rung.err then
      return redis.error_reply('SPINEBLOCKED ' .. bell .. ' ' .. rung.err)
    end
  end
  return nil
end

-- Take out again what `put` wrote of an event, its first `steps` writes.
local function undo(stream, by_key, by_correlation, id, steps)
  if steps > 2 and by_correlation > 0 then
    redis.pcall('RPOP', KEYS[by_correlation])
  end
  if steps > 1 then
    redis.pcall('RPOP', KEYS[by_key])
  end
  redis.pcall('XDEL', stream_keys[stream], id)
end

-- Store one event and name it in its indexes. Returns the error that names the key in the way, else nil.
local function put(stream, by_key, by_correlation, id, ts, data)
  local done = call('XADD', stream_keys[stream], id, ts, data)
  if type(done) == 'table' then
    return redis.error_reply('SPINEBLOCKED ' .. stream_keys[stream] .. ' ' .. done.err)
  end
  local reference = id .. ':' .. sids[stream]
  done = call('RPUSH', KEYS[by_key], reference)
  if type(done) == 'table' then
    undo(stream, by_key, by_correlation, id, 1)
    return redis.error_reply('SPINEBLOCKED ' .. KEYS[by_key] .. ' ' .. done.err)
  end
  if by_correlation > 0 then
    done = call('RPUSH', KEYS[by_correlation], reference .. ':' .. partitions[stream])
    if type(done) == 'table' then
      undo(stream, by_key, by_correlation, id, 2)
      return redis.error_reply('SPINEBLOCKED ' .. KEYS[by_correlation] .. ' ' .. done.err)
    end
  end
  return nil
end

-- The places that two bytes each of `head` name, from byte `at` on: stream, key index, correlation index (0 for none).
local function places(head, at)
  local a, b, c, d, e, f = byte(head, at, at + 5)
  return a * 256 + b, c * 256 + d, e * 256 + f
end

-- Plain writes. Each: command, place of its key, the type its key must have, offset (from 1) of the event whose seq is
-- its last argument or 0, count of arguments, arguments. `answer` instead of a command delivers event `offset` as the
-- last part of a reply: its arguments are the places of the inbox and of the scratch key, the request's id, and the TTL in
-- ms; `part` delivers a part that is no event: its seq, time and data follow.
-- `gather` counts event `offset` as an answer: its arguments are the places of the timetable and of the control stream,
-- the gather's member there, the number of the question, and 1, or 0 for a failure.
-- `unhold` removes a field (second argument) when the waiting list (place, first argument) is empty, unless it begins
--   with 1: a parked key stays so with nothing waiting.
-- `forward` sets a field to a state (`seq …`) unless a later one is stored.
local function read_op()
  local op = { arg(), num(), arg(), num() }
  local values = {}
  for i = 1, num() do
    values[i] = arg()
  end
  op[5] = values
  return op
end

-- Tell whether the key at a place holds anything else than `wanted`; each key is looked at once in a call.
local types = {}
local function holds_other(place, wanted)
  local found = types[place]
  if not found then
    found = redis.call('TYPE', KEYS[place])
    found = type(found) == 'table' and found.ok or found
    if found == 'none' then
      found = wanted
    end
    types[place] = found
  end
  return found ~= wanted
end

-- Answers go to the stream of their request at once, and to the inboxes of those who wait bundled, at the end of the
-- call (`ring_inboxes`): an entry holds for each answer `request seq ts last` and the data.
local BUNDLE = 32
local inboxes, answered = {}, {}
local function deliver(key, inbox, scratch, request, seq, ts, last, data, ttl)
  local head = seq .. ' ' .. ts .. ' ' .. last
  redis.call('XADD', key, '*', head, data)
  if last == '1' then -- nothing is added any more: a copy lacks the 4 kB that a stream sets aside for that
    redis.call('COPY', key, scratch)
    redis.call('RENAME', scratch, key)
  end
  redis.call('PEXPIRE', key, ttl)
  local answers = answered[inbox]
  if not answers then
    answers = { ttl = tonumber(ttl) }
    answered[inbox] = answers
    inboxes[#inboxes + 1] = inbox
  end
  answers[#answers + 1] = request .. ' ' .. head
  answers[#answers + 1] = data
end

local function ring_inboxes()
  for _, inbox in ipairs(inboxes) do
    local answers = answered[inbox]
    for i = 1, #answers, 2 * BUNDLE do
      local last = math.min(i + 2 * BUNDLE - 1, #answers)
      redis.call('XADD', inbox, 'MAXLEN', '~', '10000', '*', unpack(answers, i, last))
    end
    if redis.call('PTTL', inbox) < answers.ttl * 4 / 5 then
      redis.call('PEXPIRE', inbox, answers.ttl)
    end
  end
end

-- The first answer to a question counts. When there are enough, or no more can come that would be, the gather is due.
local function count_answer(key, values, value)
  local member, question, ok = values[3], values[4], values[5]
  if redis.call('HEXISTS', key, 'left') == 0 or redis.call('HSETNX', key, question, ok .. ' ' .. value) == 0 then
    return
  end
  local left = redis.call('HINCRBY', key, 'left', -1)
  local needed = redis.call('HINCRBY', key, 'needed', ok == '1' and -1 or 0)
  local hopeless = left < needed and redis.call('HGET', key, 'gives_up') == '1'
  if needed <= 0 or left <= 0 or hopeless then
    redis.call('ZADD', KEYS[tonumber(values[1])], 'XX', '0', member)
    redis.call('XADD', KEYS[tonumber(values[2])], 'MAXLEN', '~', '100', '*', 'due', '0')
  end
end

-- Run a write; `seq` is the number of the event that it goes with and `data` that event's, nil where there is none.
local function run_op(op, seq, data, ts)
  local command, key, values = op[1], KEYS[op[2]], op[5]
  if command == 'unhold' then
    local hold = redis.call('EXISTS', KEYS[tonumber(values[1])]) == 0 and redis.call('HGET', key, values[2])
    if hold and string.sub(hold, 1, 1) ~= '1' then
      redis.call('HDEL', key, values[2])
    end
  elseif command == 'forward' then
    local stored = redis.call('HGET', key, values[1])
    local at = stored and tonumber(match(stored, '^%d+')) or -1
    if at < tonumber(match(values[2], '^%d+')) then
      redis.call('HSET', key, values[1], values[2])
    end
  elseif command == 'gather' then
    count_answer(key, values, seq .. ' ' .. data)
  elseif command == 'answer' then
    deliver(key, KEYS[tonumber(values[1])], KEYS[tonumber(values[2])], values[3], seq, ts, '1', data, values[4])
  elseif command == 'part' then
    deliver(key, KEYS[tonumber(values[1])], KEYS[tonumber(values[2])], values[3], values[5], values[6], '0', values[7], values[4])
  else
    values[#values + 1] = seq
    redis.call(command, key, unpack(values))
  end
end
