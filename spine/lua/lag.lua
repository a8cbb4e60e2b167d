-- Count what a consumer group has before it in each of its streams.
--
-- KEYS: streams
-- ARGV: group, most entries to count in one stream, for each stream the id that a group made now would start after
-- Returns: for each stream {not taken, pending, id of the first entry that is not handled or ''}.
local cap = tonumber(ARGV[2])
local answers = {}
for i, key in ipairs(KEYS) do
  local after, pending, first = ARGV[2 + i], 0, ''
  local groups = redis.pcall('XINFO', 'GROUPS', key)
  if not groups.err then
    for _, group in ipairs(groups) do
      local fields = {}
      for j = 1, #group, 2 do
        fields[group[j]] = group[j + 1]
      end
      if fields['name'] == ARGV[1] then
        after, pending = fields['last-delivered-id'], fields['pending']
      end
    end
  end
  if pending > 0 then
    local oldest = redis.call('XPENDING', key, ARGV[1], '-', '+', 1)
    first = oldest[1] and oldest[1][1] or ''
  end
  local count = 0
  local from = after
  while count < cap do
    local page = redis.call('XRANGE', key, '(' .. from, '+', 'COUNT', 1000)
    if #page == 0 then
      break
    end
    if first == '' then
      first = page[1][1]
    end
    count = count + #page
    from = page[#page][1]
  end
  answers[i] = { count, pending, first }
end
return answers
