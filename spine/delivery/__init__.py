"""Delivery: leases, fenced taking, order per key, commits, held keys and dead letters."""
