"""Steps: the recorded results of outside calls, kept from one attempt to the next and dropped by the commit."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import msgspec
from pydantic import BaseModel

from spine.codec import normalise_payload
from spine.connection import Server
from spine.delivery.hand import Taken
from spine.errors import InvalidPayload
from spine.log.drafts import Write
from spine.payloads import as_dict

STEP_TTL_MS = 7 * 24 * 3_600_000


class Steps:
    """The steps of the handling of one event.

    What is recorded is read when the first step is taken, in the first attempt as well: another worker may have begun
    with the event and handed it over.

    Args:
        server: the way to the server.
        agent: who handles the event.
        taken: the event.
        used: there may be recorded ones: it was handled before.
    """

    def __init__(self, server: Server, agent: str, taken: Taken, *, used: bool) -> None:
        self._server = server
        self._key = server.keys.steps(agent, taken.partition, taken.event.seq)
        self._recorded: dict[str, bytes] | None = None
        self.used = used

    async def run(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return the recorded result of step `name`, else call `function` and record what it returns."""
        if self._recorded is None:
            self._recorded = await self._read()
        if name in self._recorded:
            return _decode(self._recorded[name])
        result = function(*args, **kwargs)
        if inspect.isawaitable(result):
            result = await result
        raw, value = _encode(name, result)
        self.used = True
        await self._server.run("step", [self._key, self._server.keys.seq], [name, raw, STEP_TTL_MS])
        return value

    async def _read(self) -> dict[str, bytes]:
        recorded = await self._server.hash(self._key)
        self.used = self.used or bool(recorded)
        return recorded

    def drop(self) -> tuple[Write, ...]:
        """Return the write that forgets every step."""
        return (Write("DEL", self._key, "hash"),) if self.used else ()


def _encode(name: str, result: Any) -> tuple[bytes, Any]:
    """Return the bytes to record and the result as every later attempt reads it: of a model, its dict."""
    kept = as_dict(result) if isinstance(result, BaseModel) else result
    try:
        value = normalise_payload({"result": kept})["result"]
    except InvalidPayload as error:
        raise InvalidPayload(f"what step {name!r} returned cannot be recorded: {error}") from error
    return msgspec.msgpack.encode(value), value


def _decode(raw: bytes) -> Any:
    return msgspec.msgpack.decode(raw)
