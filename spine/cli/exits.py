"""The exit codes of every command, and which error ends with which."""

from __future__ import annotations

from spine.errors import EmbeddedServerError, InvalidInput, ServerUnreachable

DONE = 0
FAILED = 1
USAGE = 2
NO_TARGET = 3
NO_REDIS = 4
CHECK_FAILED = 5
INTERRUPTED = 130


def exit_code(error: BaseException) -> int:
    """Return the code that a command which failed with `error` ends with."""
    if isinstance(error, InvalidInput):
        return USAGE
    if isinstance(error, ServerUnreachable | EmbeddedServerError):
        return NO_REDIS
    return FAILED
