"""What a user's code raised: which of it is a failure of that code, and what it says of itself."""

from __future__ import annotations

import asyncio
import traceback

# Not the code's own: it is being cancelled, the process is told to end, the coroutine is being closed.
FROM_OUTSIDE = (asyncio.CancelledError, KeyboardInterrupt, GeneratorExit)
SAID_CHARACTERS = 4_000
TRACEBACK_CHARACTERS = 8_000


def said(error: BaseException) -> str:
    """Return the message of `error` as text that can be stored, its beginning where it is long; this never raises."""
    try:
        text = str(error)
    except Exception as worse:
        text = f"(its message cannot be had: str() of it raised {type(worse).__name__})"
    if len(text) > SAID_CHARACTERS:
        text = f"{text[:SAID_CHARACTERS]}…"
    return _storable(text)


def told(error: BaseException) -> str:
    """Return the type and the message of `error`."""
    return f"{type(error).__name__}: {said(error)}"


def traced(error: BaseException) -> str:
    """Return the end of the traceback of `error`, as text that can be stored."""
    return _storable("".join(traceback.format_exception(error))[-TRACEBACK_CHARACTERS:])


def _storable(text: str) -> str:
    """Return `text` with what is no UTF-8 (names of files, most often) spelled out."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()
