-- Create a namespace or join it; on a new run of the server let the counter jump, so that no number is given twice.
--
-- KEYS: 1 meta, 2 seq, 3 epochs
-- ARGV: format, layout, partitions, run id of the server, jump, highest seq that the caller has seen, new epoch's id
-- Returns: format, layout, partitions, epoch, seq, the seq that the data ended at when the epoch began
local function field(name)
  return redis.call('HGET', KEYS[1], name)
end
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1], 'format', ARGV[1], 'layout', ARGV[2], 'partitions', ARGV[3], 'created', now)
end
local seq = tonumber(redis.call('GET', KEYS[2]) or '0')
local floor = tonumber(ARGV[6])
if field('run_id') ~= ARGV[4] then
  local given = math.max(seq, floor)
  if given > 0 then
    local jump = tonumber(ARGV[5])
    floor = (math.floor(given / jump) + 1) * jump
  end
  redis.call('HSET', KEYS[1], 'run_id', ARGV[4], 'epoch', ARGV[7], 'found', string.format('%.0f', seq))
  redis.call('RPUSH', KEYS[3], ARGV[7] .. ' ' .. string.format('%.0f', math.max(seq, floor)) .. ' ' .. ARGV[4] .. ' ' .. now)
end
if floor > seq then
  redis.call('SET', KEYS[2], string.format('%.0f', floor))
  seq = floor
end
return { field('format'), field('layout'), field('partitions'), field('epoch'), string.format('%.0f', seq), field('found') or '0' }
