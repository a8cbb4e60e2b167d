"""Every Redis key of a namespace, built here and nowhere else.

All keys start with ``spine:{namespace}:``; the braces put the whole namespace into one hash slot (layout `single`).
"""

from __future__ import annotations

import zlib
from functools import cached_property

from spine.names import check_name

PREFIX = "spine:"
# What the keys begin with, after the namespace, that are made for a while: each must have a time to live.
TEMPORARY = ("prod:", "dedupe:", "reply:", "inbox:", "subscribers", "steps:", "rate:", "slots:")


def partition_of(key: str, partitions: int) -> int:
    """Return the partition of `key`: CRC-32 of its UTF-8 bytes modulo `partitions`, the same in every language."""
    return zlib.crc32(key.encode()) % partitions


def namespaces_pattern() -> str:
    """Return the pattern of the keys that every namespace has exactly one of."""
    return f"{PREFIX}{{*}}:meta"


def namespace_of(meta_key: str) -> str:
    """Return the namespace whose `Keys.meta` is `meta_key`."""
    return meta_key.removeprefix(PREFIX + "{").removesuffix("}:meta")


class Keys:
    """The keys of one namespace."""

    def __init__(self, namespace: str) -> None:
        self.namespace = check_name(namespace, "namespace")
        self.prefix = f"{PREFIX}{{{namespace}}}:"

    def __repr__(self) -> str:
        return f"Keys({self.namespace!r})"

    # --- the log ---

    @cached_property
    def meta(self) -> str:
        """Hash: format, layout, partitions, epoch, run_id, created."""
        return self.prefix + "meta"

    @cached_property
    def epochs(self) -> str:
        """List: one line for each jump of the counter (epoch, first seq, run id, time)."""
        return self.prefix + "epochs"

    @cached_property
    def seq(self) -> str:
        """String: the last number given."""
        return self.prefix + "seq"

    @cached_property
    def clock(self) -> str:
        """String: the last time stamped, in ms."""
        return self.prefix + "clock"

    @cached_property
    def streams(self) -> str:
        """Hash: ``lane/topic`` → small number that index entries and bells name the stream by."""
        return self.prefix + "streams"

    def log(self, partition: int, lane: int, topic: str) -> str:
        """Stream: the events of one partition, lane and topic."""
        return f"{self.prefix}log:{partition}:{lane}:{topic}"

    def bell(self, partition: int) -> str:
        """Stream, short: one entry an append, naming the streams touched."""
        return f"{self.prefix}bell:{partition}"

    def by_key(self, partition: int, key: str) -> str:
        """List: ``seq:stream`` of every event of one key."""
        return f"{self.prefix}key:{partition}:{key}"

    def by_correlation(self, correlation: str) -> str:
        """List: ``seq:stream:partition`` of every event of one correlation whose key is another word."""
        return f"{self.prefix}corr:{correlation}"

    @cached_property
    def floors(self) -> str:
        """Hash: partition → seq up to which its events were trimmed away."""
        return self.prefix + "floors"

    def gone(self, partition: int) -> str:
        """Hash: key → the last seq trimmed away of each of its streams, ``seq:stream`` joined by commas."""
        return f"{self.prefix}gone:{partition}"

    def producer(self, producer: str) -> str:
        """String with TTL: the last batch of a producer and its result."""
        return f"{self.prefix}prod:{producer}"

    def dedupe(self, dedupe_key: str) -> str:
        """String with TTL: the event that was stored under a dedupe key."""
        return f"{self.prefix}dedupe:{dedupe_key}"

    def session(self, partition: int, key: str) -> str:
        """Hash: the session state of one key; the empty field holds the seq of the last change."""
        return f"{self.prefix}session:{partition}:{key}"

    @cached_property
    def catalog(self) -> str:
        """Hash: type → its model, version and JSON schema."""
        return self.prefix + "catalog"

    @cached_property
    def control(self) -> str:
        """Stream, short: notices to every client (paused, cancelled, a change of leases)."""
        return self.prefix + "control"

    @cached_property
    def subscribers(self) -> str:
        """Sorted set with TTL: subscriptions of the message bus, by the time until which they are taken for alive."""
        return self.prefix + "subscribers"

    # --- requests and timers ---

    def reply(self, partition: int, request: str) -> str:
        """Stream with TTL: the answer to one request."""
        return f"{self.prefix}reply:{partition}:{request}"

    def inbox(self, client: str) -> str:
        """Stream with TTL: answers and pokes for one client."""
        return f"{self.prefix}inbox:{client}"

    @cached_property
    def scratch(self) -> str:
        """There within a script only."""
        return self.prefix + "scratch"

    @cached_property
    def due(self) -> str:
        """Sorted set: id of a scheduled event by its due time in ms."""
        return self.prefix + "due"

    @cached_property
    def scheduled(self) -> str:
        """Hash: id of a scheduled event → what to append."""
        return self.prefix + "scheduled"

    @cached_property
    def cancelled(self) -> str:
        """Hash: correlation → seq up to which its events are cancelled."""
        return self.prefix + "cancelled"

    # --- agents ---

    @cached_property
    def agents(self) -> str:
        """Hash: agent → its latest declaration."""
        return self.prefix + "agents"

    @cached_property
    def handlers(self) -> str:
        """Hash: topic or pattern → names of the agents that ever declared a handler for it."""
        return self.prefix + "handlers"

    def agent(self, agent: str) -> str:
        """Hash: start, registered, versions, paused."""
        return f"{self.prefix}agent:{agent}"

    def workers(self, agent: str) -> str:
        """Hash: worker → what it is and until when it is taken for alive."""
        return f"{self.prefix}workers:{agent}"

    def lease(self, agent: str, partition: int) -> str:
        """Hash: gen, owner, until, version."""
        return f"{self.prefix}lease:{agent}:{partition}"

    def state(self, agent: str, version: str, partition: int) -> str:
        """Hash: key → seq and state."""
        return f"{self.prefix}state:{agent}:{version}:{partition}"

    def snapshots(self, agent: str, version: str, partition: int, key: str) -> str:
        """Hash: seq → state of one key at that seq."""
        return f"{self.prefix}snap:{agent}:{version}:{partition}:{key}"

    def holds(self, agent: str, partition: int) -> str:
        """Hash: held key → why, until when, attempts."""
        return f"{self.prefix}hold:{agent}:{partition}"

    def waiting(self, agent: str, partition: int, key: str) -> str:
        """List: ``seq:stream`` of the events of a held key, oldest first."""
        return f"{self.prefix}wait:{agent}:{partition}:{key}"

    def crashes(self, agent: str, partition: int) -> str:
        """Hash: seq → times that a worker died with this event running."""
        return f"{self.prefix}crash:{agent}:{partition}"

    def steps(self, agent: str, partition: int, seq: int) -> str:
        """Hash with TTL: name of a step of the handling of one event → its result."""
        return f"{self.prefix}steps:{agent}:{partition}:{seq}"

    def done(self, agent: str, partition: int, seq: int) -> str:
        """Hash, one for 512 numbers: seq → worker, start, duration, attempt, outcome."""
        return f"{self.prefix}done:{agent}:{partition}:{seq >> 9}"

    def dead(self, agent: str) -> str:
        """Hash: seq → dead letter."""
        return f"{self.prefix}dead:{agent}"

    def rate(self, agent: str) -> str:
        """String with TTL: the time at which the agent's rate is spent (GCRA), in ms."""
        return f"{self.prefix}rate:{agent}"

    def slots(self, agent: str) -> str:
        """Set: `worker:seq` of each handler at work of an agent with a limit over all its workers."""
        return f"{self.prefix}slots:{agent}"

    def gate(self, agent: str, partition: int, gate: str, key: str) -> str:
        """Hash: type → event that came to a gate that still waits; the empty field holds the round's time-out."""
        return f"{self.prefix}gate:{agent}:{partition}:{gate}:{key}"

    def gather(self, partition: int, gather: str) -> str:
        """Hash: answers of one durable fan-out."""
        return f"{self.prefix}gather:{partition}:{gather}"

    def own(self, *parts: str) -> str:
        """Return a key of a part of the system that keeps its own small records."""
        return self.prefix + ":".join(parts)

    def all(self) -> str:
        """Return the pattern that every key of the namespace matches."""
        escaped = self.prefix.replace("[", "\\[").replace("*", "\\*").replace("?", "\\?")
        return escaped + "*"
