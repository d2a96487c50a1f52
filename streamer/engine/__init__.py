"""Many sources on one model: reading, scheduling, pacing, health."""
