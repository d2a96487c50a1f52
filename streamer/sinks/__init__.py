"""Sinks, the destinations of events; they share `messages` and otherwise know no other sink."""
