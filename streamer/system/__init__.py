"""Logs, systemd, memory and console output."""
