"""The past of a namespace: its states at any moment, what of it is kept, copies of it, and proof that a fold is one."""
