"""genre-export: from a training run to one self-describing ONNX file."""

import streamer  # noqa: F401  It keeps onnxruntime quiet, which must happen before its import.
