"""The arms: one file per peer and per part of the spine."""
