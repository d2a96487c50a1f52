"""One source's way: samples -> log-mel columns -> window -> probabilities -> decisions.

No thread and no socket, and time is counted in samples: the same samples give the same events, in
whatever pieces they come.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from streamer.core.decision import (
    Decider,
    Decision,
    DecisionSettings,
    Observation,
    Segment,
    Titles,
)
from streamer.core.events import SpectrogramColumns
from streamer.core.model import Classifier
from streamer.core.resampling import Resampler, Samples, mix_down
from streamer.core.spectrogram import Columns, LogMelStream, relative_to_peak, to_levels

LEVEL_SECONDS = 1.0
"""The level is that of a hop, but at least of so many seconds: music has pauses shorter than that,
and with short hops they must not be taken for silence."""

LEAST_DBFS = -120.0
"""Level that is told for digital silence, whose logarithm is infinite; in dBFS."""

LEAST_OFFSET = 0.1
"""Mean of a hop, as a share of its standard deviation, from which on it is taken away. In 2,667
seconds of GTZAN it is 0.002 at the median and never over 0.084."""

EDGES_PER_SECOND = 20
"""Blocks in which the begin and the end of silence are sought: 50 ms."""

LEAST_PEAK_DB = 0.0
"""Lowest reference of the spectrogram that is shown, in absolute dB; it keeps the noise of a quiet
room dark. Ordinary music peaks 10 to 40 dB above it."""


Event = Decision | Segment | SpectrogramColumns


class Pipeline:
    """Turn the samples of one source into decisions and segments.

    The first decision falls where the sound first fills the model's shortest window, the next ones
    `hop_seconds` after each other. After silence, a new title or a break in the sound the window
    begins anew, so that two songs never mix in it, and until it is filled the state is
    `uncertain`; the hop that comes closest then ends exactly where it is.

    Parameters
    ----------
    classifier : Classifier
        The model; several pipelines may share it.
    settings : DecisionSettings, optional
        How decisions are made; by default as the model suggests.
    hop_seconds : float
        Seconds from one decision to the next. May be changed at any time.
    spectrogram : bool
        Whether the columns of the spectrogram are events, too.

    Raises
    ------
    DecisionSettingsError
        If the model suggests settings that cannot be used.
    ValueError
        If `hop_seconds` is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> from streamer import Classifier, Decision, Pipeline, Segment
    >>> pipeline = Pipeline(Classifier.load())
    >>> second = np.zeros((48000, 2), np.float32)  # samples from anywhere, here silence in stereo
    >>> events = [event for _ in range(5) for event in pipeline.feed(second, 48000)]
    >>> events += pipeline.finish()
    >>> for event in events:
    ...     if isinstance(event, Decision):
    ...         print(f"{event.position:.0f} s {event.state}")
    3 s silence
    4 s silence
    5 s silence
    >>> [(event.start, event.end) for event in events if isinstance(event, Segment) and event.final]
    [(0.0, 5.0)]
    """

    def __init__(
        self,
        classifier: Classifier,
        *,
        settings: DecisionSettings | None = None,
        hop_seconds: float = 1.0,
        spectrogram: bool = False,
    ) -> None:
        contract = classifier.contract
        self._settings = settings or DecisionSettings.from_mapping(contract.decision)
        self.hop_seconds = hop_seconds
        self.nan_samples = 0
        """Values so far that were NaN or infinite, over all channels."""
        self.clipped_samples = 0
        """Values so far at full scale or beyond, over all channels."""
        self.inferences = 0
        """Windows classified so far."""
        self.inference_seconds = 0.0
        """Seconds that this took, in all."""
        self._classifier = classifier
        self._contract = contract
        self._rate = contract.spectrogram.sample_rate
        self._decider = Decider(
            contract.labels, contract.not_music, self._settings, contract.window_seconds
        )
        self._shown = _ShownColumns(contract.window_frames, contract.spectrogram.top_db)
        self._spectrogram = spectrogram
        self._resampler: Resampler | None = None
        self._source_rate = 0
        self._titles = Titles()
        self._finished = False
        self._silent = False
        # Counted in samples at the model's rate since the first one:
        self._received = 0
        self._decided = 0
        self._loud_until = 0
        self._cut: int | None = None
        self._hop: list[Samples] = []
        self._heard = np.empty(0, np.float32)
        self._ready: list[Columns] = []
        self._discontinuity = False
        self._restart_window(0)
        self._first = self._filled

    @property
    def hop_seconds(self) -> float:
        """Seconds from one decision to the next."""
        return self._hop_seconds

    @hop_seconds.setter
    def hop_seconds(self, seconds: float) -> None:
        if not 0 < seconds < float("inf"):
            raise ValueError(f"hop_seconds must be a positive number, not {seconds!r}")
        self._hop_seconds = seconds

    @property
    def position(self) -> float:
        """Seconds of sound since the first sample."""
        return self._received / self._rate

    def feed(
        self,
        samples: NDArray[np.floating],
        sample_rate: int,
        *,
        title: str | None = None,
        discontinuity: bool = False,
    ) -> list[Event]:
        """Take the next samples.

        Parameters
        ----------
        samples : floating point, shape (n,) or (n, channels)
            Full scale at 1. NaN and infinity become 0, and are counted.
        sample_rate : int
            Of these samples, in Hz. It may change from call to call, as may the channels.
        title : str, optional
            What the source says is playing from the first of these samples on; empty if it says
            that this has no title, None if it says nothing new. Another title than before is taken
            for a hard cut.
        discontinuity : bool
            Whether sound is missing before these samples.

        Returns
        -------
        list of Decision, Segment and SpectrogramColumns
            What these samples complete, oldest first: at each position the decision, then the
            segments that begin, are revised or end with it, then the columns.

        Raises
        ------
        TypeError
            If the samples are not floating point.
        ValueError
            If shape or rate cannot be, or `finish` was called before.
        """
        if self._finished:
            raise ValueError("the pipeline was finished: make a new one for more samples")
        mono = mix_down(samples)
        events: list[Event] = []
        if self._titles.is_cut(title, discontinuity):
            events += self._end_stretch()
            self._cut = self._received
            self._discontinuity |= discontinuity
            self._restart_window(self._received)
        self._titles.take(title, discontinuity)
        if self._resampler is None or sample_rate != self._source_rate:
            events += self._end_stretch()
            self._resampler = Resampler(sample_rate, self._rate)
            self._source_rate = sample_rate
        self.nan_samples += mono.nan_samples
        self.clipped_samples += mono.clipped_samples
        return events + self._take(self._resampler.push(mono.samples))

    def feed_columns(self, columns: Columns, level_dbfs: float) -> list[Event]:
        """Take the next columns of a spectrogram in the place of samples.

        For spectrograms without their sound, such as pictures: all that follows the spectrogram is
        done as for `feed`, but decisions fall at whole columns. Not to be mixed with `feed`.

        Parameters
        ----------
        columns : float32, shape (n_mels, k)
            On the model's grid, in absolute dB.
        level_dbfs : float
            Level of the sound at these columns.

        Returns
        -------
        list of Decision, Segment and SpectrogramColumns
            What these columns complete, as from `feed`.
        """
        events: list[Event] = []
        for index in range(columns.shape[1]):
            self._ready.append(columns[:, index : index + 1])
            self._received += self._contract.spectrogram.hop_length
            if self._received >= self._next_decision():
                ready = np.concatenate(self._ready, axis=1)
                self._ready = []
                events += self._conclude(self._received, level_dbfs, ready)
        return events

    def finish(self) -> list[Event]:
        """End the source.

        Returns
        -------
        list of Decision, Segment and SpectrogramColumns
            The last events. A source too short for a window gets its only decision here.
        """
        if self._finished:
            return []
        events = self._end_stretch()
        self._finished = True
        if self._received and not self._decided:
            events += self._decide(self._received)
        return events + list(self._decider.finish(self.position))

    def _end_stretch(self) -> list[Event]:
        """Take what the resampler still holds."""
        if self._resampler is None:
            return []
        rest = self._resampler.flush()
        self._resampler = None
        return self._take(rest)

    def _restart_window(self, origin: int) -> None:
        """Forget all columns; the first new one is centred on sample `origin`."""
        spec = self._contract.spectrogram
        self._columns = LogMelStream(spec)
        self._window = np.empty((spec.n_mels, 0), np.float32)
        self._filled = origin + spec.n_fft // 2 + (self._contract.min_frames - 1) * spec.hop_length

    def _hop_samples(self) -> int:
        return max(1, round(self.hop_seconds * self._rate))

    def _next_decision(self) -> int:
        """Return the sample at which the next decision falls."""
        if not self._decided:
            return self._first
        due = self._decided + self._hop_samples()
        if self._decided < self._filled and abs(due - self._filled) <= self._hop_samples() / 2:
            due = self._filled
        return due

    def _take(self, samples: Samples) -> list[Event]:
        """Take mono samples at the model's rate; decide wherever a hop is complete."""
        events: list[Event] = []
        while self._received + len(samples) >= (due := self._next_decision()):
            due = max(due, self._received)
            self._hop.append(samples[: due - self._received])
            samples = samples[due - self._received :]
            self._received = due
            events += self._decide(due)
        self._hop.append(samples)
        self._received += len(samples)
        return events

    def _decide(self, now: int) -> list[Event]:
        """Turn the samples of the hop that ends at sample `now` into events."""
        hop = np.concatenate([np.empty(0, np.float32), *self._hop])
        began, boundary = now - len(hop), self._cut
        level = self._level(hop)
        silent = self._decider.is_silence(level)
        first, last = loud_stretch(hop, self._settings.silence_dbfs, self._rate // EDGES_PER_SECOND)
        if silent and not self._silent and boundary is None:
            boundary = min(began, self._loud_until)
        if self._silent and not silent:
            boundary = max(began + first, boundary or 0)
            self._restart_window(boundary)
        if last:
            self._loud_until = began + last
        # What came before a cut, or was still silence, is not part of the new window.
        used = without_offset(hop)[max(began, boundary or 0) - began :]
        columns = self._columns.push(used if self._spectrogram or not silent else used[:0])
        return self._conclude(now, level, columns, boundary)

    def _level(self, hop: Samples) -> float:
        """Return the level of the hop, or of the last second if the hop is shorter."""
        span = max(self._hop_samples(), round(LEVEL_SECONDS * self._rate))
        heard = np.concatenate([self._heard, hop])[-span:]
        self._heard = heard[-round(LEVEL_SECONDS * self._rate) :].copy()
        return level_dbfs(heard)

    def _conclude(
        self, now: int, level: float, columns: Columns, boundary: int | None = None
    ) -> list[Event]:
        """Turn the hop that ends at sample `now` and brought `columns` into events."""
        silent = self._decider.is_silence(level)
        hop = now - self._decided if self._decided else min(now, self._hop_samples())
        observation = Observation(
            position=now / self._rate,
            hop_seconds=hop / self._rate,
            level_dbfs=level,
            window_probabilities=None if silent else self._classify(columns),
            title=self._titles.now,
            discontinuity=self._discontinuity,
            boundary=None if boundary is None else boundary / self._rate,
        )
        if silent:
            self._restart_window(now)
        self._hop, self._cut, self._discontinuity = [], None, False
        self._decided, self._silent = now, silent
        decision, segments = self._decider.update(observation)
        events: list[Event] = [decision, *segments]
        if self._spectrogram and columns.shape[1]:
            events.append(SpectrogramColumns(observation.position, self._shown.levels(columns)))
        return events

    def _classify(self, columns: Columns) -> NDArray[np.float32] | None:
        """Move the window on; return its probabilities, None while it is too short."""
        window = np.concatenate([self._window, columns], axis=1)
        self._window = window[:, -self._contract.window_frames :]
        if self._window.shape[1] < self._contract.min_frames:
            return None
        relative = relative_to_peak(self._window, self._contract.spectrogram.top_db)
        began = time.perf_counter()
        probabilities = np.asarray(self._classifier.predict(relative[None])[0])
        self.inference_seconds += time.perf_counter() - began
        self.inferences += 1
        return probabilities


def level_dbfs(samples: Samples) -> float:
    """Return the level of samples in dBFS: their RMS without their mean, in dB relative to 1.

    A full-scale square wave has 0 dBFS, a full-scale sine -3.01, a constant `LEAST_DBFS`.

    Examples
    --------
    >>> round(level_dbfs(np.array([0.1, -0.1] * 1000, np.float32)), 3)
    -20.0
    """
    power = float(np.var(samples, dtype=np.float64)) if len(samples) else 0.0
    return max(LEAST_DBFS, 10 * float(np.log10(max(power, 1e-30))))


def without_offset(samples: Samples) -> Samples:
    """Return samples without their mean if it is large enough to be a fault of the sound card.

    A constant would be the loudest cell of the lowest band and push music towards the floor.

    Examples
    --------
    >>> without_offset(np.array([0.75, 0.25], np.float32)).tolist()
    [0.25, -0.25]
    """
    offset = np.mean(samples, dtype=np.float64)
    if abs(offset) <= LEAST_OFFSET * np.std(samples, dtype=np.float64):
        return samples
    return np.asarray(samples - offset, np.float32)


def loud_stretch(samples: Samples, silence_dbfs: float, block: int) -> tuple[int, int]:
    """Return where the first loud block begins and where the last one ends; 0, 0 if none is.

    Examples
    --------
    >>> loud_stretch(np.array([0, 0, 0, 0, 0.1, -0.1, 0, 0], np.float32), -60.0, block=2)
    (4, 6)
    """
    block = min(block, max(1, len(samples)))
    blocks = samples[: len(samples) // block * block].reshape(-1, block)
    loud = np.flatnonzero(np.var(blocks, axis=1, dtype=np.float64) >= 10 ** (silence_dbfs / 10))
    return (int(loud[0]) * block, (int(loud[-1]) + 1) * block) if len(loud) else (0, 0)


class _ShownColumns:
    """Columns made levels for the eye: relative to the loudest of the last ones."""

    def __init__(self, window_frames: int, top_db: float) -> None:
        self._window_frames = window_frames
        self._top_db = top_db
        self._peaks = np.empty(0, np.float32)

    def levels(self, columns: Columns) -> NDArray[np.uint8]:
        self._peaks = np.concatenate([self._peaks, columns.max(axis=0)])[-self._window_frames :]
        reference = max(float(self._peaks.max()), LEAST_PEAK_DB)
        return to_levels(columns - np.float32(reference), self._top_db)
