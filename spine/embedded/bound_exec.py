"""Becomes another program that is sent a signal when its parent dies.

Run as a script, `python -I -S bound_exec.py SIGNAL PARENT_PID PROGRAM [ARGUMENT…]`, and only with the standard
library, so that it costs milliseconds. It is a program of its own because `preexec_fn` is unsafe in a process with
threads. On Linux the kernel sends the signal; elsewhere the program runs unbound. The parent is the *thread* that
started this: a server bound to a short-lived thread ends with that thread.
"""

from __future__ import annotations

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1


def command(signal_number: int, program: list[str]) -> list[str]:
    """Return the command line that runs `program` bound to the calling process."""
    return [sys.executable, "-I", "-S", __file__, str(int(signal_number)), str(os.getpid()), *program]


def main(arguments: list[str]) -> None:
    """Bind this process to its parent, then replace it with the program."""
    signal_number, parent, program = int(arguments[0]), int(arguments[1]), arguments[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal_number)
        if os.getppid() != parent:  # it died before it could be watched
            raise SystemExit(1)
    os.execv(program[0], program)


if __name__ == "__main__":
    main(sys.argv[1:])
