"""`make bench`: the spine beside what a user would pick instead, in one run on one machine.

An *arm* is one thing measured one way (`arms/`), in a process and on servers of its own. A *figure*
is a line of the table: a spine arm, what it is held against, and the target (`figures.py`).
`docs/performance.md` says how to read the result.
"""
