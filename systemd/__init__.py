"""The systemd units and the sample settings; installed as `streamer.systemd`."""
