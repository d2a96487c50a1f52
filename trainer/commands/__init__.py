"""The commands of genre-train."""
