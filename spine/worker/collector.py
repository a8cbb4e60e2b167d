"""The garbage collector of a process that does nothing but run agents."""

import gc

YOUNG = 50_000


def collect_seldom() -> None:
    """Look for garbage after 50,000 new objects instead of 700, and never again at those there are now.

    What a worker has in hand is young and lives for some milliseconds: at 700 objects it is looked at again and again,
    together with all that was imported, for a fifth of the worker's time, and is freed by its reference counts in the
    end. For the whole process, so not for `run` in a service of your own.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 20, 20)
