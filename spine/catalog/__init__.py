"""The typed catalogue: which types there are, and the model of each one's payload."""

from spine.catalog.types import Catalog, EventType, Strictness

__all__ = ["Catalog", "EventType", "Strictness"]
