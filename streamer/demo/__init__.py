"""A clip that ships with the package; tests/tools/render_demo.py of the repository makes it."""
