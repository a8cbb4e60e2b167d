-- Record the result of a step, and the last number given by then: a fork keeps what was recorded before its moment.
--
-- KEYS: 1 steps (hash), 2 seq
-- ARGV: name, result, time to live in ms
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2], '\0' .. ARGV[1], redis.call('GET', KEYS[2]) or '0')
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
