-- Copy the next entries of a stream, up to a seq; what was copied before is not copied again.
--
-- KEYS: 1 stream, 2 its copy
-- ARGV: seq not to go beyond, most entries
-- Returns: how many were looked at: fewer than asked for at the end.
local newest = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)
local from = newest[1] and '(' .. newest[1][1] or '-'
local page = redis.call('XRANGE', KEYS[1], from, ARGV[1] .. '-0', 'COUNT', ARGV[2])
for _, entry in ipairs(page) do
  if string.sub(entry[1], -2) == '-0' then
    redis.call('XADD', KEYS[2], entry[1], unpack(entry[2]))
  end
end
return #page
