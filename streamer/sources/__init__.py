"""Where samples come from: microphones, files, network streams, standard input."""

from streamer.sources.base import AudioBlock, Source, SourceEnded, SourceError
from streamer.sources.factory import make_source
from streamer.sources.microphone import list_devices, make_device

__all__ = [
    "AudioBlock",
    "Source",
    "SourceEnded",
    "SourceError",
    "list_devices",
    "make_device",
    "make_source",
]
