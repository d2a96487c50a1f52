"""genre-export: from a training run to one self-describing ONNX file."""
