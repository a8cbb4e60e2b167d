"""The scripts; see `spine.scripts`."""
