"""From the samples of one source to decisions and segments.

Time is counted in samples, so the same samples give the same events, in whatever pieces they come.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from streamer.core.change import ChangeDetector
from streamer.core.decision import Decider, Decision, Observation, Segment
from streamer.core.decision_settings import DecisionSettings, Effort
from streamer.core.events import SpectrogramColumns
from streamer.core.mixing import Mixer, without_offset
from streamer.core.model import Classifier
from streamer.core.resampling import Resampler
from streamer.core.silence import SilenceGate
from streamer.core.spectrogram import Columns, Samples, to_levels
from streamer.core.steadiness import Steadiness, spectral_distance
from streamer.core.titles import Titles
from streamer.core.window import AudioWindow, Window

Event = Decision | Segment | SpectrogramColumns
Infer = Callable[[Callable[[], NDArray[np.float32]]], NDArray[np.float32]]

LEAST_PEAK_DB = 0.0
"""Lowest reference of the spectrogram that is displayed, in absolute dB; it keeps the noise of a
quiet room dark. Ordinary music peaks 10 to 40 dB above it."""


class Pipeline:
    """Turn the samples of one source into decisions and segments.

    The first decision falls where the sound first fills the model's shortest window, the next ones
    follow every `hop_seconds`. After silence, a new title or an interruption the window restarts,
    so that two songs never mix in it. Until it is filled the state is `uncertain`, or after a new
    title the label before it, marked as `carried`; the hop that ends closest to the position at
    which it is filled ends exactly there.

    Parameters
    ----------
    classifier : Classifier
        The model; several pipelines may share it.
    settings : DecisionSettings, optional
        How decisions are made; by default the model's own settings.
    hop_seconds : float
        Seconds from one decision to the next. May be changed at any time.
    spectrogram : bool
        Whether the columns of the spectrogram are events as well.
    effort : "full" or "saving"
        Whether every hop is classified, or only those where something may have changed; the others
        repeat the window before. May be changed at any time.

    Raises
    ------
    DecisionSettingsError
        If the model's own settings cannot be used.
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
        effort: Effort = "full",
    ) -> None:
        self.nan_samples = 0
        """Values so far that were NaN or infinite, over all channels."""
        self.clipped_samples = 0
        """The same at full scale or beyond."""
        self.mixer = Mixer()
        """How the channels are mixed, and how often the mix was replaced by one of them."""
        self.position = 0.0
        """Seconds of sound so far, with what the resampler holds back. Grows until `finish`."""
        self._rate = classifier.contract.spectrogram.sample_rate
        self._spectrogram = spectrogram
        audio = classifier.contract.audio
        self._audio = AudioWindow(audio, self._rate) if audio else None
        self._columns = ColumnPipeline(
            classifier,
            settings=settings,
            hop_seconds=hop_seconds,
            spectrogram=spectrogram,
            effort=effort,
            least_samples=self._audio.least_samples if self._audio else 0,
        )
        self._titles = Titles()
        self._decided_title: str | None = None
        self._resampler: Resampler | None = None
        self._finished = False
        # Positions are samples at the model's rate since the first one.
        self._received = 0
        self._cut: int | None = None
        self._interrupted = False
        self._pending: list[Samples] = []
        self._arrived = np.empty(0, np.float32)
        """Samples whose audio for the second network has not all come yet."""

    @property
    def hop_seconds(self) -> float:
        """Seconds from one decision to the next. May be changed at any time."""
        return self._columns.hop_seconds

    @hop_seconds.setter
    def hop_seconds(self, seconds: float) -> None:
        self._columns.hop_seconds = seconds

    @property
    def effort(self) -> Effort:
        """Whether every hop is classified; see the parameter. May be changed at any time."""
        return self._columns.effort

    @effort.setter
    def effort(self, effort: Effort) -> None:
        self._columns.effort = effort

    @property
    def infer(self) -> Infer:
        """Calls the function that runs the model, perhaps on another thread. May be set."""
        return self._columns.infer

    @infer.setter
    def infer(self, infer: Infer) -> None:
        self._columns.infer = infer

    @property
    def due_seconds(self) -> float:
        """Seconds of sound that are missing for the next decision."""
        return self._columns.next_decision / self._rate - self.position

    @property
    def inferences(self) -> int:
        """Windows classified so far."""
        return self._columns.inferences

    @property
    def inference_seconds(self) -> float:
        """Seconds that this took."""
        return self._columns.inference_seconds

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
            What the source announces from the first of these samples on; empty if it announces
            that there is no title, None if it announces nothing new. A title that differs from the
            last one is taken for a hard cut.
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
            If shape or rate are impossible, or `finish` was called before.
        """
        if self._finished:
            raise ValueError("the pipeline was finished: make a new one for more samples")
        mono = self.mixer.correct_and_mix(samples, sample_rate)
        events: list[Event] = []
        is_cut = self._titles.is_cut(title, discontinuity)
        if is_cut:
            events += self._flush_resampler()
            self._cut = self._received
            self._interrupted |= discontinuity
        self._titles.take(title, discontinuity)
        if self._resampler is None or self._resampler.source_rate != sample_rate:
            events += self._flush_resampler()
            self._resampler = Resampler(sample_rate, self._rate)
            if self._audio:
                self._audio.begin(sample_rate, self._received)
        if is_cut:
            # Both begin with the new stretch: by the old one's rate the audio may be a sample off.
            self._restart_windows(self._received)
        self.nan_samples += mono.nan_samples
        self.clipped_samples += mono.clipped_samples
        if self._audio:
            self._audio.push(mono.samples)
        events += self._take(self._resampler.push(mono.samples))
        received = self._received + len(self._arrived)
        position = received / self._rate + self._resampler.held_seconds
        # Set once, since other threads read it; the end of a stretch may round a sample away.
        self.position = max(self.position, position)
        return events

    def interrupt(self) -> list[Event]:
        """Complete what was fed, before sound is missing; return its events.

        They are otherwise returned by the next call of `feed`, which must have `discontinuity`.
        """
        return [] if self._finished else self._flush_resampler()

    def finish(self) -> list[Event]:
        """End the source; return its last events, with a decision if there was none."""
        if self._finished:
            return []
        events = self._flush_resampler()
        self._finished = True
        self.position = self._received / self._rate
        if self._received and not self._columns.decided_at:
            events += self._decide(self._received)
        return [*events, *self._columns.finish(self._received)]

    def _flush_resampler(self) -> list[Event]:
        """Take the samples that the resamplers hold back, and end their stretch."""
        resampler, self._resampler = self._resampler, None
        if self._audio:
            self._audio.end_stretch()
        return self._take(resampler.flush()) if resampler else []

    def _take(self, samples: Samples) -> list[Event]:
        """Take mono samples at the model's rate; decide wherever a hop is complete."""
        events: list[Event] = []
        arrived = np.concatenate([self._arrived, samples])
        while self._received + len(arrived) >= (due := self._columns.next_decision):
            due = max(due, self._received)
            if self._audio and not self._audio.reaches(due):
                self._arrived = arrived
                return events
            self._pending.append(arrived[: due - self._received])
            arrived = arrived[due - self._received :]
            self._received = due
            events += self._decide(due)
        self._pending.append(arrived.copy())  # a view would keep all that arrived in memory
        self._received += len(arrived)
        self._arrived = np.empty(0, np.float32)
        return events

    def _restart_windows(self, position: int) -> None:
        self._columns.window.restart(position)
        if self._audio:
            self._audio.restart(position)

    def _decide(self, end: int) -> list[Event]:
        """Decide about the pending samples, the hop that ends at position `end`."""
        window, gate = self._columns.window, self._columns.gate
        samples = np.concatenate([np.empty(0, np.float32), *self._pending])
        start = end - len(samples)
        edge = gate.update(samples, start, self._columns.hop_samples)
        boundary = self._cut
        if edge is not None:
            boundary = max(edge, self._cut or 0)
            if not gate.silent:
                self._restart_windows(boundary)
        # Sound before a cut, or before silence ended, is not part of the new window.
        used = without_offset(samples)[max(start, boundary or 0) - start :]
        columns = window.render(used if self._spectrogram or not gate.silent else used[:0])
        title, restart = self._titles.current, self._cut is not None
        if boundary is None and title == "" and self._decided_title:
            # The same song may go on, but the title does not hold for what follows.
            boundary = start
        interrupted, self._interrupted = self._interrupted, False
        self._pending, self._cut, self._decided_title = [], None, title
        audio = None
        if self._audio:
            audio = self._audio.before(end, self._columns.hop_samples)
            if gate.silent:
                self._audio.restart(end)
        return self._columns.decide(
            end,
            columns,
            audio=audio,
            title=title,
            restart=restart,
            interrupted=interrupted,
            boundary=boundary,
        )


class ColumnPipeline:
    """Turn the columns of one source's spectrogram, with its level, into decisions and segments.

    `Pipeline` renders samples and calls `decide` once a hop. Where there is a spectrogram without
    samples, such as a picture, `feed` takes its columns; decisions then fall at whole columns.
    Positions are numbers of samples, at the model's rate, since the source's first one.
    Parameters and errors are those of `Pipeline`.
    """

    def __init__(
        self,
        classifier: Classifier,
        *,
        settings: DecisionSettings | None = None,
        hop_seconds: float = 1.0,
        spectrogram: bool = False,
        effort: Effort = "full",
        least_samples: int = 0,
    ) -> None:
        contract = classifier.contract
        settings = settings or DecisionSettings.from_mapping(contract.decision)
        self.window = Window(contract, least_samples)
        self.gate = SilenceGate(settings, contract.spectrogram.sample_rate)
        self._changes = ChangeDetector(contract.spectrogram)
        self._steadiness = Steadiness(contract.window_frames * contract.spectrogram.hop_length)
        self.effort: Effort = effort
        self.infer: Infer = operator.call
        self.inferences = 0
        self.inference_seconds = 0.0
        self.decided_at = 0
        """Position of the last decision; 0 before the first one."""
        self._belief = 0.0
        """Probability of the most probable label at the last decision."""
        self._classifier = classifier
        self._spec = contract.spectrogram
        self._max_frames = contract.window_frames
        self._least_frames = contract.min_frames
        self._least_audio = contract.audio.min_samples if contract.audio else 0
        self._audio_rate = contract.audio.sample_rate if contract.audio else 0
        self.hop_seconds = hop_seconds
        labels, not_music, seconds = contract.labels, contract.not_music, contract.window_seconds
        self._decider = Decider(labels, not_music, settings, seconds, classifier.names)
        self._mixed = False  # whether all windows since a change have held sound from before it
        self._peaks = np.empty(0, np.float32) if spectrogram else None
        self._first_decision = self.window.filled_at
        self._fed: list[Columns] = []
        self._fed_until = 0

    @property
    def hop_seconds(self) -> float:
        """Seconds from one decision to the next. May be changed at any time."""
        return self._hop_seconds

    @hop_seconds.setter
    def hop_seconds(self, seconds: float) -> None:
        if not 0 < seconds < float("inf"):
            raise ValueError(f"hop_seconds must be a positive number, not {seconds!r}")
        self._hop_seconds = seconds
        self.hop_samples = max(1, round(seconds * self._spec.sample_rate))

    @property
    def next_decision(self) -> int:
        """Position at which the next decision is due."""
        if not self.decided_at:
            return self._first_decision
        due, filled = self.decided_at + self.hop_samples, self.window.filled_at
        # The hop that comes closest to where the window is full ends exactly there.
        if self.decided_at < filled and abs(due - filled) <= self.hop_samples / 2:
            due = filled
        return due

    def feed(self, columns: Columns, level_dbfs: float) -> list[Event]:
        """Take the next columns, shape (n_mels, k), in absolute dB, and the level of their sound.

        Returns the events that these columns complete, as `Pipeline.feed` does.
        """
        events: list[Event] = []
        for index in range(columns.shape[1]):
            self._fed.append(columns[:, index : index + 1])
            self._fed_until += self._spec.hop_length
            if self._fed_until >= self.next_decision:
                boundary = self.decided_at if self.gate.update_level(level_dbfs) else None
                hop, self._fed = np.concatenate(self._fed, axis=1), []
                events += self.decide(self._fed_until, hop, boundary=boundary)
        return events

    def decide(
        self,
        end: int,
        columns: Columns,
        *,
        audio: Samples | None = None,
        title: str | None = None,
        restart: bool = False,
        interrupted: bool = False,
        boundary: int | None = None,
    ) -> list[Event]:
        """Decide about a hop that ends at position `end`, after its level was given to the gate.

        Its columns have shape (n_mels, k), in absolute dB. `audio`, shape (n,), is what a second
        network hears; without it the model answers by the spectrogram alone. The other parameters
        are those of `Observation`, but `boundary` is a position.
        """
        rate = self._spec.sample_rate
        length = end - self.decided_at if self.decided_at else min(end, self.hop_samples)
        silent = self.gate.silent
        if silent or boundary is not None:
            self._changes.restart()
            self._steadiness.restart()
            self._mixed = False
        changed = not silent and self._changes.update(columns)
        if changed:
            self._steadiness.notice_change(end)
            self._mixed = True
        inferences, was_mixed = self.inferences, self._mixed
        probabilities = None if silent else self._classify(end, columns, audio)
        observation = Observation(
            position=end / rate,
            hop_seconds=length / rate,
            level_dbfs=self.gate.level_dbfs,
            silent=silent,
            window_probabilities=probabilities,
            repeated=probabilities is not None and self.inferences == inferences,
            title=title,
            restart=restart,
            interrupted=interrupted,
            changed=changed,
            cut=changed and self._changes.certain,
            whole=was_mixed and not self._mixed,
            boundary=None if boundary is None else boundary / rate,
        )
        if silent:
            self.window.restart(end)
        self.decided_at = end
        decision, segments = self._decider.update(observation)
        self._belief = max(decision.probabilities.values())
        events: list[Event] = [decision, *segments]
        if self._peaks is not None and columns.shape[1]:
            peaks = np.concatenate([self._peaks, columns.max(axis=0)])[-self._max_frames :]
            reference = np.float32(max(float(peaks.max()), LEAST_PEAK_DB))
            levels = to_levels(columns - reference, self._spec.top_db)
            events.append(SpectrogramColumns(observation.position, levels))
            self._peaks = peaks
        return events

    def finish(self, end: int | None = None) -> list[Segment]:
        """End the source at `end`, or where it was fed to; return what becomes final."""
        return self._decider.finish((end or self._fed_until) / self._spec.sample_rate)

    def _classify(
        self, end: int, columns: Columns, audio: Samples | None
    ) -> NDArray[np.float32] | None:
        """Append columns to the window; return its probabilities, None while it is too short.

        What was before a change is left out as soon as there is enough sound after it.
        """
        distance = spectral_distance(self.window.columns, columns)
        may_repeat = self._steadiness.may_repeat(end, self.hop_samples, self._belief, distance)
        self.window.append(columns)
        if self.effort == "saving" and may_repeat:
            return self._steadiness.repeat()
        frames = self._changes.columns_since
        if frames is not None:
            samples = int(frames * self._spec.hop_seconds * self._audio_rate)
            if frames < self._least_frames or samples < self._least_audio:
                frames = None
            elif audio is not None:
                audio = audio[-samples:]
        spectrogram = self.window.relative_to_peak(frames)
        if spectrogram is None or (audio is not None and len(audio) < self._least_audio):
            return None
        heard = None if audio is None else without_offset(audio)[None]

        def predict() -> NDArray[np.float32]:
            started = time.perf_counter()
            probabilities = np.asarray(self._classifier.predict(spectrogram[None], heard)[0])
            self.inference_seconds += time.perf_counter() - started
            return probabilities

        probabilities = self.infer(predict)
        self.inferences += 1
        self._mixed = self._mixed and frames is None
        is_full = spectrogram.shape[1] == self._max_frames
        self._steadiness.classified(end, probabilities, whole=is_full)
        return probabilities
