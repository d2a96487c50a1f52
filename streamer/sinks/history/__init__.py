"""The history sink: segments and one-minute summaries in SQLite, and reports from them."""
