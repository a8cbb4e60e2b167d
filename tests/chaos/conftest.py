"""The chaos tests start their own servers: they stop, pause and kill them."""
