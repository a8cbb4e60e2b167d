"""Running agents: `run` in a service of your own; ``spine run`` does the same."""

from spine.worker.process import Worker, run

__all__ = ["Worker", "run"]
