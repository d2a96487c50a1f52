"""Sinks, the destinations of events; of one another they import only `messages`."""
