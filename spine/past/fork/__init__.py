"""Forking: the history up to a moment in another namespace, to run on from there with other code."""
