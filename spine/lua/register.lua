-- Register an agent: fix where its handlers start, note its version and what it handles.
--
-- KEYS: 1 agent, 2 agents, 3 handlers, 4 seq, 5 control
-- ARGV: name, version, start ('' for the present, else a seq), declaration, n patterns, pattern...
-- Returns: start, newest version, paused ('1' or '')
local start = ARGV[3]
if start == '' then
  start = redis.call('GET', KEYS[4]) or '0'
end
redis.call('HSETNX', KEYS[1], 'start', start)
local versions = redis.call('HGET', KEYS[1], 'versions') or ''
local known = false
for version in string.gmatch(versions, '[^\n]+') do
  known = known or version == ARGV[2]
end
if not known then
  versions = versions .. ARGV[2] .. '\n'
  redis.call('HSET', KEYS[1], 'versions', versions)
end
local newest
for version in string.gmatch(versions, '[^\n]+') do
  newest = version
end
if newest == ARGV[2] then
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[4])
end
for i = 6, 5 + tonumber(ARGV[5]) do
  local names = redis.call('HGET', KEYS[3], ARGV[i]) or ''
  if not string.find('\n' .. names, '\n' .. ARGV[1] .. '\n', 1, true) then
    redis.call('HSET', KEYS[3], ARGV[i], names .. ARGV[1] .. '\n')
  end
end
redis.call('XADD', KEYS[5], 'MAXLEN', '~', '100', '*', 'agent', ARGV[1])
return { redis.call('HGET', KEYS[1], 'start'), newest, redis.call('HGET', KEYS[1], 'paused') or '' }
