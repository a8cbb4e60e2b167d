"""The log: appending events, reading them, and hearing of new ones."""
