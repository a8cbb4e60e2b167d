"""State as a fold over the log: declared by reducers, dumped alike everywhere, rebuilt from the events."""
