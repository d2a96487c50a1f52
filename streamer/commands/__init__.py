"""The command lines of genre-stream."""
