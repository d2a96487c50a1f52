"""A clip that ships with the package; tools/render_demo.py of the repository makes it."""
