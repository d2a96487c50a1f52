"""Rules that notify people or start programs."""
