-- Register an agent: note its version, what it handles, and where it starts to read what it declares for the first time.
--
-- KEYS: 1 agent, 2 agents, 3 handlers, 4 seq, 5 control
-- ARGV: name, version, start ('' for the present, else a seq), declaration, n patterns with a handler, pattern..., then
--   patterns that only a reducer is declared for
-- Returns: paused ('1' or ''), then for each pattern the seq after which it is read
local present = redis.call('GET', KEYS[4]) or '0'
local start = ARGV[3] ~= '' and ARGV[3] or present
redis.call('HSETNX', KEYS[1], 'start', start)
local versions = redis.call('HGET', KEYS[1], 'versions') or ''
local known, newest = false, ARGV[2]
for version in string.gmatch(versions, '[^\n]+') do
  known = known or version == ARGV[2]
  newest = version
end
if not known then
  newest = ARGV[2]
  redis.call('HSET', KEYS[1], 'versions', versions .. newest .. '\n')
end
if newest == ARGV[2] then
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[4])
end
local reply = { redis.call('HGET', KEYS[1], 'paused') or '' }
for i = 6, #ARGV do
  local from = 'from:' .. ARGV[i]
  redis.call('HSETNX', KEYS[1], from, start)
  reply[#reply + 1] = redis.call('HGET', KEYS[1], from)
  local names = redis.call('HGET', KEYS[3], ARGV[i]) or ''
  if i <= 5 + tonumber(ARGV[5]) and not string.find('\n' .. names, '\n' .. ARGV[1] .. '\n', 1, true) then
    redis.call('HSET', KEYS[3], ARGV[i], names .. ARGV[1] .. '\n')
  end
end
redis.call('XADD', KEYS[5], 'MAXLEN', '~', '100', '*', 'agent', ARGV[1])
return reply
