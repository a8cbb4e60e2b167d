"""Every error that spine raises, by what the caller can do about it.

    SpineError
    ├── InvalidInput (ValueError)        refused at the door; correct the call
    │   ├── InvalidName
    │   ├── InvalidPayload
    │   ├── InvalidContext
    │   ├── TooLarge
    │   └── NotOpen (AttributeError)
    ├── Misconfigured                    correct the set-up
    │   ├── NamespaceMismatch
    │   ├── UnsupportedServer
    │   └── EmbeddedServerError
    ├── Unavailable                      try again later
    │   ├── ServerUnreachable
    │   ├── ServerRefused                out of memory, read-only, no permission
    │   ├── StreamBlocked                `spine doctor --repair` mends it
    │   └── NotDurable
    ├── RequestError
    │   ├── NoHandler
    │   ├── RequestTimeout (TimeoutError)
    │   │   └── MissingResponse
    │   ├── RequestCycle
    │   ├── RequestFailed
    │   └── LateResponse
    ├── CoordinationError                what the agents arranged leads nowhere; trying again would not help
    │   ├── HandoffLimit
    │   ├── HandoffLoop
    │   └── NoRoute
    ├── StateError
    │   ├── StateConflict
    │   ├── ReducerFailed
    │   └── ReplayGap
    ├── DecodeError                      an entry that is not one of ours, or damaged
    │   └── UnknownVersion
    └── LeaseLost                        inside a worker: another one owns the partition now

`SpineError.stored` says what became of the events of the failed call: ``False`` nothing was stored, ``True`` all of
it was, ``None`` it is not known (the connection broke after the call was sent).
"""

from __future__ import annotations

from types import EllipsisType


class SpineError(Exception):
    """Root of all errors of spine."""

    stored: bool | None = False

    def __init__(self, message: str, *, stored: bool | EllipsisType | None = ...) -> None:
        super().__init__(message)
        if stored is not ...:
            self.stored = stored


class InvalidInput(SpineError, ValueError):
    """The call was refused before anything was sent."""


class InvalidName(InvalidInput):
    """A type, topic, agent, namespace, key or correlation is not of the allowed form."""


class InvalidPayload(InvalidInput):
    """The payload holds something that cannot be stored; the message names the field."""


class InvalidContext(InvalidInput):
    """The context holds something that cannot be stored."""


class TooLarge(InvalidInput):
    """The event or the batch is larger than the limit."""


class NotOpen(InvalidInput, AttributeError):
    """The client or bus was not opened yet, or the bus was closed."""


class Misconfigured(SpineError):
    """The set-up does not fit; nothing was stored."""


class NamespaceMismatch(Misconfigured):
    """The namespace was created with another layout, partition count or format than this client asks for."""


class UnsupportedServer(Misconfigured):
    """The server lacks something that spine cannot do without."""


class EmbeddedServerError(Misconfigured):
    """The embedded server could not be started; the message says what to install or mend."""


class Unavailable(SpineError):
    """The server did not do it now; a later call may succeed."""


class ServerUnreachable(Unavailable):
    """No connection, or it broke. `stored` is ``None`` when the call had been sent."""


class ServerRefused(Unavailable):
    """The server answered with an error (out of memory, read-only, no permission). Nothing was stored."""


class StreamBlocked(Unavailable):
    """A stray entry with a higher id sits in a stream of the log. Nothing was stored; see ``spine doctor --repair``."""


class NotDurable(Unavailable):
    """The event is in memory, but the asked durability was not confirmed."""

    stored = True


class RequestError(SpineError):
    """A request got no answer that could be used."""

    stored = True


class NoHandler(RequestError):
    """No agent ever declared a handler for the topic. The request was not stored."""

    stored = False


class RequestTimeout(RequestError, TimeoutError):
    """The deadline passed without an answer. The request is in the log, unless `stored` says that this is not known."""


class RequestCycle(RequestError):
    """The agent asked is itself waiting for this key: an answer could never come. The request was not stored."""

    stored = False


class RequestFailed(RequestError):
    """The handler of the request failed for good; the message is its error."""


class MissingResponse(RequestTimeout):
    """Nobody is subscribed who could respond, so no time is spent on waiting. The event is in the log."""


class LateResponse(RequestError):
    """The caller waits no more, or has its response already. The response was not stored."""

    stored = False


class CoordinationError(SpineError):
    """What the agents arranged leads nowhere, however often it is tried. A handler that raises it is not retried."""


class HandoffLimit(CoordinationError):
    """The work went through too many hands."""


class HandoffLoop(CoordinationError):
    """The same work was handed to the same agent before, and nothing has changed since."""


class NoRoute(CoordinationError):
    """No rule of a router applies, and it has no ``otherwise``."""


class StateError(SpineError):
    """State could not be had as asked."""


class StateConflict(StateError):
    """The key has moved on since the state that the caller expected. Nothing was stored."""


class ReducerFailed(StateError):
    """A reducer raised; the message names it, the event and the key."""


class ReplayGap(StateError):
    """The replay needs events that were trimmed away."""


class DecodeError(SpineError):
    """An entry of a stream cannot be read as an event."""


class UnknownVersion(DecodeError):
    """The entry was written by a newer version of the format or of the type."""


class LeaseLost(SpineError):
    """Another worker owns the partition now: what was in hand here is handled there."""
