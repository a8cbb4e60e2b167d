"""The server that a project directory shares when no URL is given."""
