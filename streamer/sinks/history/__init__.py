"""What was heard, in SQLite."""
