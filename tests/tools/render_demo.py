"""Render the demo clip: five short pieces in five styles, one after the other.

The first is the opening of J. S. Bach's Prelude in C major (BWV 846, 1722, public domain); the
others were written for this project. FluidSynth plays them with the MIT-licensed FluidR3 General
MIDI soundfont, FFmpeg normalises and encodes them.

    apt-get install fluidsynth fluid-soundfont-gm ffmpeg
    pip install 'genre-stream[demo]'
    python tests/tools/render_demo.py streamer/demo/demo.opus
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import mido

SOUNDFONT = Path("/usr/share/sounds/sf2/FluidR3_GM.sf2")
SECTION_SECONDS = 13.0
TICKS = 480
DRUMS = 9

KICK, SNARE, RIM, CLAP = 36, 38, 37, 39
CLOSED, PEDAL, OPEN, CRASH, RIDE = 42, 44, 46, 49, 51


@dataclass
class Score:
    """Notes of one piece, in beats."""

    tempo: float
    """Beats per minute."""
    seed: int = 0
    events: list[tuple[float, int, mido.Message]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    @property
    def beats(self) -> float:
        """Length of a section in beats."""
        return SECTION_SECONDS * self.tempo / 60

    def instrument(self, channel: int, program: int, volume: int = 100, pan: int = 64) -> None:
        """Set the General MIDI program (counted from 0), volume and pan of a channel."""
        for message in (
            mido.Message("program_change", channel=channel, program=program),
            mido.Message("control_change", channel=channel, control=7, value=volume),
            mido.Message("control_change", channel=channel, control=10, value=pan),
        ):
            self.events.append((0.0, 0, message))

    def note(
        self, channel: int, pitch: int, start: float, length: float, velocity: int = 90
    ) -> None:
        """Add a note, with random deviations of its time and velocity as people play it."""
        if start >= self.beats - 0.05:
            return
        start = max(0.0, start + self.random.gauss(0, 0.008))
        velocity = max(1, min(127, round(self.random.gauss(velocity, 4))))
        on = mido.Message("note_on", channel=channel, note=pitch, velocity=velocity)
        off = mido.Message("note_off", channel=channel, note=pitch)
        self.events.append((start, 2, on))
        self.events.append((min(self.beats, start + length), 1, off))

    def chord(
        self,
        channel: int,
        pitches: Sequence[int],
        start: float,
        length: float,
        velocity: int = 80,
    ) -> None:
        """Add notes that sound together."""
        for pitch in pitches:
            self.note(channel, pitch, start, length, velocity)

    def drum(self, pitch: int, start: float, velocity: int = 90) -> None:
        """Add a drum stroke."""
        self.note(DRUMS, pitch, start, 0.2, velocity)

    def save(self, path: Path) -> None:
        """Write a standard MIDI file."""
        track = mido.MidiTrack()
        track.append(mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(self.tempo)))
        now = 0
        for beat, _, message in sorted(self.events, key=lambda event: event[:2]):
            tick = round(beat * TICKS)
            track.append(message.copy(time=tick - now))
            now = tick
        file = mido.MidiFile(ticks_per_beat=TICKS)
        file.tracks.append(track)
        file.save(path)


def classical() -> Score:
    """Bach's Prelude in C major, BWV 846, on a piano."""
    score = Score(66, seed=1)
    score.instrument(0, 0)
    bars = (
        (60, 64, 67, 72, 76),
        (60, 62, 69, 74, 77),
        (59, 62, 67, 74, 77),
        (60, 64, 67, 72, 76),
    )
    for bar, (bass, tenor, *upper) in enumerate(bars):
        for half in (0.0, 2.0):
            start = 4 * bar + half
            score.note(0, bass, start, 2.0, 74)
            score.note(0, tenor, start + 0.25, 1.75, 66)
            for place, pitch in enumerate([*upper, *upper]):
                score.note(0, pitch, start + 0.5 + place / 4, 0.3, 64)
    return score


def jazz() -> Score:
    """Swing: walking bass, ride, piano chords and a muted trumpet over ii-V-I in B flat."""
    score = Score(176, seed=2)
    score.instrument(0, 32, 118)
    score.instrument(1, 0, 88, 45)
    score.instrument(2, 59, 96, 80)
    bass = (36, 39, 43, 46, 41, 45, 48, 51, 46, 50, 53, 50, 43, 46, 50, 47)
    chords = ((51, 58, 62, 67), (51, 57, 62, 67), (50, 57, 60, 65), (53, 58, 62, 65))
    line = (74, 75, 77, 79, 81, 79, 77, 74, 72, 70, 69, 70, 74, 77, 82, 81, 79, 74)
    for beat in range(int(score.beats) + 1):
        score.note(0, bass[beat % 16], beat, 0.9, 100)
        score.drum(RIDE, beat, 92)
        if beat % 2:
            score.drum(PEDAL, beat, 70)
            score.drum(RIDE, beat + 0.66, 74)
        if beat % 4 == 0:
            chord = chords[beat // 4 % 4]
            score.chord(1, chord, beat + 0.66, 0.5, 74)
            score.chord(1, chord, beat + (2.66 if beat % 8 else 2.0), 0.4, 70)
        if beat % 8 < 6:
            score.note(2, line[beat * 2 % 18], beat, 0.6, 92)
            score.note(2, line[(beat * 2 + 1) % 18], beat + 0.66, 0.3, 84)
    return score


def reggae() -> Score:
    """One drop: organ and guitar on the off-beat, a round bass, the drum on three."""
    score = Score(76, seed=3)
    score.instrument(0, 33, 122)
    score.instrument(1, 16, 84, 40)
    score.instrument(2, 27, 92, 88)
    bass = ((33, 0.0), (33, 0.75), (40, 1.5), (38, 2.5), (36, 3.0), (38, 3.5))
    chords = ((57, 60, 64), (57, 60, 64), (53, 57, 60), (55, 59, 62))
    for bar in range(int(score.beats / 4) + 1):
        start = 4.0 * bar
        shift = (0, 0, -4, -2)[bar % 4]
        for pitch, beat in bass:
            score.note(0, pitch + shift, start + beat, 0.6, 108)
        for beat in range(4):
            chord = chords[bar % 4]
            score.chord(2, chord, start + beat + 0.5, 0.14, 88)
            score.chord(1, chord, start + beat + 0.5, 0.2, 70)
            score.drum(CLOSED, start + beat, 60)
            score.drum(CLOSED, start + beat + 0.5, 78)
        score.drum(KICK, start + 2, 112)
        score.drum(RIM, start + 2, 104)
    return score


def disco() -> Score:
    """Four on the floor, octaves in the bass, open hi-hats, strings and a clean guitar."""
    score = Score(122, seed=4)
    score.instrument(0, 33, 112)
    score.instrument(1, 48, 88, 50)
    score.instrument(2, 27, 84, 90)
    score.instrument(3, 61, 84, 74)
    roots, thirds = (33, 38, 31, 36), (3, 3, 4, 4)
    for beat in range(int(score.beats) + 1):
        root, third = roots[beat // 4 % 4], thirds[beat // 4 % 4]
        chord = (root + 24, root + 24 + third, root + 31)
        score.drum(KICK, beat, 118)
        score.drum(CLOSED, beat, 60)
        score.drum(OPEN, beat + 0.5, 92)
        if beat % 2:
            score.drum(SNARE, beat, 104)
            score.drum(CLAP, beat, 96)
        score.note(0, root, beat, 0.4, 108)
        score.note(0, root + 12, beat + 0.5, 0.4, 104)
        for place in (0.25, 0.5, 0.75):
            score.chord(2, chord, beat + place, 0.12, 78)
        if beat % 4 == 0:
            score.chord(1, [pitch + 12 for pitch in chord], beat, 3.8, 78)
            for place in (1.5, 2.0, 3.5):
                score.chord(3, [pitch + 12 for pitch in chord], beat + place, 0.3, 92)
    return score


def metal() -> Score:
    """Palm-muted and distorted fifths, left and right, over a double bass drum."""
    score = Score(168, seed=5)
    score.instrument(0, 34, 112)
    score.instrument(1, 30, 112, 10)
    score.instrument(2, 30, 112, 118)
    score.instrument(3, 29, 84)
    riff = (40, 40, 43, 40, 45, 40, 46, 45)
    for beat in range(int(score.beats) + 1):
        root = riff[beat % 8] if beat % 16 < 12 else (48, 48, 47, 46)[beat % 4]
        for half in (0.0, 0.25, 0.5, 0.75):
            score.drum(KICK, beat + half, 112)
        score.drum(SNARE if beat % 2 else CLOSED, beat, 118)
        score.drum(CRASH if beat % 16 == 0 else OPEN, beat, 108)
        for guitar in (1, 2):
            score.chord(guitar, (root, root + 7, root + 12), beat, 0.45, 118)
            score.chord(guitar, (root, root + 7), beat + 0.5, 0.4, 112)
        score.note(0, root - 12, beat, 0.45, 112)
        score.note(0, root - 12, beat + 0.5, 0.4, 110)
    return score


SECTIONS: tuple[Callable[[], Score], ...] = (classical, jazz, reggae, disco, metal)


def render(out: Path) -> None:
    """Play every section, join them and encode the clip."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        waves = []
        for section in SECTIONS:
            midi, wave = folder / f"{section.__name__}.mid", folder / f"{section.__name__}.wav"
            section().save(midi)
            options = ["-ni", "-q", "-g", "0.6", "-r", "48000", "-F", wave]
            play = ["fluidsynth", *options, SOUNDFONT, midi]
            subprocess.run(play, check=True, stdout=subprocess.DEVNULL)
            waves.append(wave)
        inputs = [argument for wave in waves for argument in ("-i", str(wave))]
        trimmed = ";".join(
            f"[{n}:a]aformat=channel_layouts=stereo,apad,atrim=0:{SECTION_SECONDS},"
            f"loudnorm=I=-16:TP=-1.5,aresample=48000,aformat=channel_layouts=stereo,"
            f"afade=t=out:st={SECTION_SECONDS - 0.25}:d=0.25[s{n}]"
            for n in range(len(waves))
        )
        joined = "".join(f"[s{n}]" for n in range(len(waves)))
        graph = f"{trimmed};{joined}concat=n={len(waves)}:v=0:a=1[out]"
        command = ["ffmpeg", "-y", "-loglevel", "error", *inputs, "-filter_complex", graph]
        encoding = ["-map", "[out]", "-c:a", "libopus", "-b:a", "96k", "-fflags", "+bitexact"]
        subprocess.run([*command, *encoding, out], check=True)


if __name__ == "__main__":
    render(Path(sys.argv[1]))
