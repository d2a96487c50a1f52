"""The systemd units, and the settings file beside them; installed as `streamer.systemd`."""
