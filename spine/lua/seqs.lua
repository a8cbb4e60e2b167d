-- The seqs of the next entries of a stream, without what is in them.
--
-- KEYS: 1 stream
-- ARGV: seq to begin after, most entries
-- Returns: seqs.
local found = {}
for i, entry in ipairs(redis.call('XRANGE', KEYS[1], '(' .. ARGV[1] .. '-18446744073709551615', '+', 'COUNT', ARGV[2])) do
  found[i] = tonumber(string.match(entry[1], '^%d+'))
end
return found
