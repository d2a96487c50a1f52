"""A clip that ships with the package, and the script that made it."""
