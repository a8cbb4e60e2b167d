"""How the arguments of ``commit.lua`` are laid out: numbers packed into a few strings, because each argument costs."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

from spine.connection import Argument
from spine.log.calls import ScriptCall
from spine.log.drafts import Write

if TYPE_CHECKING:
    from spine.delivery.commits import Unit

Scope = tuple[str, int, str, str]  # key of the lease, its generation, consumer group, consumer
KINDS = {"none": 0, "pending": 1, "waiting": 2, "head": 3, "due": 4, "carried": 5}


class CommitCall(ScriptCall):
    """Collects the keys and arguments of one call of ``commit.lua``."""

    def units(self, units: Sequence[Unit]) -> list[Argument]:
        """Return the arguments of `units` and of the streams that their events go to."""
        events = self.events([event for unit in units for event in unit.events])
        place = self.place
        scopes: dict[Scope, int] = {}
        commands: dict[tuple[str, str], int] = {}
        heads: list[int] = []
        write_heads: list[int] = []
        body: list[Argument] = []
        for unit in units:
            held, done, writes = unit.held, unit.done, unit.writes
            kind = KINDS[held.kind]
            scope = (unit.lease, unit.generation, held.group, held.consumer)
            heads += (
                kind,
                scopes.setdefault(scope, len(scopes) + 1),
                place(held.source) if kind else 0,
                place(done[0]) if done else 0,
                len(unit.expected),
                len(unit.events),
                len(writes),
            )
            if kind:
                body.append(held.reference)
            if done:
                body.append(done[1])
            for key, seq in unit.expected:
                body += (place(key), seq)
            for write in writes:
                self._add_write(write, commands, write_heads, body)
        return [
            *self.streams_args(),
            *events,
            *self._scope_args(scopes),
            len(commands),
            *(word for command in commands for word in command),
            len(units),
            struct.pack(f">{len(heads)}H", *heads),
            struct.pack(f">{len(write_heads)}H", *write_heads),
            *body,
        ]

    def _add_write(
        self, write: Write, commands: dict[tuple[str, str], int], heads: list[int], body: list[Argument]
    ) -> None:
        values = (*map(self.place, write.other_keys), *write.args) if write.other_keys else write.args
        command = commands.setdefault((write.command, write.holds), len(commands) + 1)
        heads += (command, self.place(write.key), write.seq_of, len(values))
        body += values

    def _scope_args(self, scopes: dict[Scope, int]) -> list[Argument]:
        args: list[Argument] = [len(scopes)]
        for lease, generation, group, consumer in scopes:
            args += (self.place(lease) if lease else 0, generation, group, consumer)
        return args
