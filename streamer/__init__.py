"""genre-stream: tells, live and honestly, which genre of music is playing."""
