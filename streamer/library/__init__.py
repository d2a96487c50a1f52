"""Whole libraries: the genre of every file of a folder, on all processors."""
