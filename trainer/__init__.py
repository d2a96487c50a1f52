"""genre-train: from a folder of music to a model and an honest report about it."""
