"""Protocol 1, the dashboard and the HTTP pages on one port."""
