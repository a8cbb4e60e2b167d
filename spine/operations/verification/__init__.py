"""Is a fold what it must be: pure, and the same each time, in this process and in another."""
