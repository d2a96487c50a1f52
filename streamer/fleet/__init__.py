"""Many engines on many machines, placed, restarted and moved by Ray."""
