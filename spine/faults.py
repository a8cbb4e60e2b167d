"""Named moments at which a test can let the process die, to show that nothing is lost or doubled there."""

from __future__ import annotations

import os
import signal
from collections import Counter

_wanted, _, _time = os.environ.get("SPINE_FAULT", "").partition(":")
_passed: Counter[str] = Counter()


def fault(name: str) -> None:
    """Die here by SIGKILL when ``$SPINE_FAULT`` names this moment (``name``, or ``name:3`` for the third time)."""
    if name != _wanted:
        return
    _passed[name] += 1
    if _passed[name] == int(_time or 1):
        os.kill(os.getpid(), signal.SIGKILL)
