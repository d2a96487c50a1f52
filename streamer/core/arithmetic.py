"""The numbers that a network can be computed with; without onnxruntime, to load quickly."""

from __future__ import annotations

from typing import Literal

Arithmetic = Literal["int8", "float32"]
"""Numbers to compute with."""

Choice = Literal["auto", "int8", "float32"]
"""What may be asked for; `auto` is what is faster on this processor."""
