"""From samples to decisions, without clocks, threads, sockets or files (but the model's)."""
