"""An RTSP server for tests: GStreamer's, run by the system's Python, which has its bindings.

Usage: python3 tests/support/rtsp.py; it prints the port, and serves a tone on rtsp://127.0.0.1:PORT/tone.
"""

from __future__ import annotations

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")

from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402 - versions come first

Gst.init(None)
server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service("0")
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch(
    "( audiotestsrc is-live=true freq=440 ! audio/x-raw,rate=44100,channels=2 ! audioconvert "
    "! rtpL16pay name=pay0 )"
)
factory.set_shared(True)
server.get_mount_points().add_factory("/tone", factory)
server.attach(None)
print(server.get_bound_port(), flush=True)
GLib.MainLoop().run()
