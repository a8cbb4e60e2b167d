-- Look through a page of a stream for entries whose id spine would not give: every id of ours ends in -0.
--
-- KEYS: 1 stream
-- ARGV: id to start after, or - for the beginning; how many entries to look at
-- Returns: the id to go on after, or '' at the end; then the ids found.
local start = ARGV[1] == '-' and '-' or '(' .. ARGV[1]
local page = redis.call('XRANGE', KEYS[1], start, '+', 'COUNT', ARGV[2])
local found = { #page == tonumber(ARGV[2]) and page[#page][1] or '' }
for _, entry in ipairs(page) do
  if string.sub(entry[1], -2) ~= '-0' then
    found[#found + 1] = entry[1]
  end
end
return found
