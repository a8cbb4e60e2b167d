-- Make the group of an agent on the copy of a stream, with what is open before the last handled event as pending.
--
-- KEYS: 1 stream
-- ARGV: group, consumer, seq of the last handled event, seqs of the open ones before it
redis.pcall('XGROUP', 'DESTROY', KEYS[1], ARGV[1])
redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], ARGV[3] .. '-0', 'MKSTREAM')
redis.call('XGROUP', 'CREATECONSUMER', KEYS[1], ARGV[1], ARGV[2])
for i = 4, #ARGV do
  redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i] .. '-0', 'FORCE', 'JUSTID')
end
return #ARGV - 3
