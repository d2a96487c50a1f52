"""One source's way: samples -> log-mel columns -> window -> probabilities -> decisions.

No clock, no thread, no socket: the same samples give the same events, in whatever pieces they come.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamer.decision import Decision, DecisionSettings, Segment
from streamer.model import Classifier


@dataclass(frozen=True, slots=True)
class SpectrogramColumns:
    """New columns of the spectrogram, to be shown."""

    position: float
    """Seconds since the source's first sample, at the end of the last column."""
    levels: NDArray[np.uint8]
    """Shape (mels, columns), row 0 the lowest band; 255 is the loudest cell of the last window."""


Event = Decision | Segment | SpectrogramColumns


class Pipeline:
    """Turn the samples of one source into events."""

    def __init__(
        self,
        classifier: Classifier,
        *,
        settings: DecisionSettings | None = None,
        hop_seconds: float = 1.0,
        spectrogram: bool = False,
    ) -> None:
        self.hop_seconds = hop_seconds
        self.position = 0.0
        self.nan_samples = 0
        self.clipped_samples = 0
        self.inferences = 0
        self.inference_seconds = 0.0

    def feed(
        self,
        samples: NDArray[np.float32],
        sample_rate: int,
        *,
        title: str | None = None,
        discontinuity: bool = False,
    ) -> list[Event]:
        """Take the next samples and return the events that they complete."""
        raise NotImplementedError

    def finish(self) -> list[Event]:
        """End the source: close the open segment."""
        raise NotImplementedError
